"""Sampling parameters and results as tensors, and the head epilogue in plain torch, row by row.

Knows tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import torch_ops


@dataclass(frozen=True, slots=True)
class RowSampling:
    """Sampling parameters of R rows: all [R], on the logits' device.

    seed int64 (the bits of an unsigned one); position int64; temperature fp32, 0 for the best token without noise or
    filters; top_k int32, 0 for off, and top_p fp32 in (0, 1], 1 for off: both None if no row filters. mask int32: the
    row of `allowed` that is this row's grammar mask, -1 for none; None if row i has mask i.
    """

    seed: Tensor
    position: Tensor
    temperature: Tensor
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RunnersUp:
    """The k best tokens of each row: ids [R, k] int64 and their logits [R, k] fp32, the best first.

    They are ranked after a row's mask and `banned`, before temperature, filters and noise; ties go to the lower id. If
    fewer tokens are left: id -1 with logit -inf.
    """

    ids: Tensor
    logits: Tensor


def runners_up_in_torch(logits: Tensor, banned: Tensor, allowed: Tensor | None, k: int) -> RunnersUp:
    """Returns the runners-up of `sample`, by a sort; `allowed` [R, W]."""
    left = logits.float().masked_fill(banned, float("-inf"))
    if allowed is not None:
        left = left.masked_fill(~torch_ops.unpack_mask(allowed, logits.shape[-1]), float("-inf"))
    values, ids = left.sort(dim=-1, descending=True, stable=True)
    values, ids = (F.pad(part[:, :k], (0, max(0, k - part.shape[1]))) for part in (values, ids))
    short = values.isneginf() | (torch.arange(k, device=values.device) >= logits.shape[-1])
    return RunnersUp(ids.masked_fill(short, -1), values.masked_fill(short, float("-inf")))


def sample_in_torch(
    logits: Tensor, banned: Tensor, allowed: Tensor | None, params: RowSampling
) -> tuple[Tensor, Tensor]:
    """Does what `sample` does, row by row, by `reference.sample_rows`."""
    rows = []
    for row in range(logits.shape[0]):
        temperature = float(params.temperature[row])
        noise = torch_ops.gumbel(int(params.seed[row]) % 2**64, params.position[row : row + 1], banned.shape[0])
        rows.append(
            torch_ops.sample_rows(
                logits[row : row + 1],
                banned,
                _mask_of(row, allowed, params),
                noise if temperature else None,
                temperature,
                0 if params.top_k is None else int(params.top_k[row]),
                1.0 if params.top_p is None else float(params.top_p[row]),
            )
        )
    tokens, confidence = zip(*rows, strict=True)
    return torch.cat(tokens), torch.cat(confidence)


def _mask_of(row: int, allowed: Tensor | None, params: RowSampling) -> Tensor | None:
    at = row if params.mask is None else int(params.mask[row])
    return None if allowed is None or at < 0 else allowed[at : at + 1]
