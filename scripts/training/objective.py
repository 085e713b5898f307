"""The joint objective of nld.md §6: one forward over [clean | noisy], loss = AR + alpha * diffusion / p.

Knows windows and blocks. The noisy half is not the whole window again but a list of blocks cut where decoding cuts
them: each starts on a token of the model's own (the seed, kept) and is masked after it, so prompts cost nothing and
block starts fall anywhere. Half of the blocks are wholly masked, as a draft sees them; the rest at a random rate p.
Rows of a block see the clean tokens before its seed and each other. Shapes: B windows, L clean, N = blocks * block.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.model import Attend, Transformer

from .data import Window

MIN_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens and positions [B, L + N]; weight [B, L + N] of each row's loss; target [B, L + N]; start [B, N]."""

    tokens: Tensor
    positions: Tensor
    target: Tensor
    weight: Tensor
    start: Tensor
    clean: int


def block_starts(own: npt.NDArray[np.bool_], block: int, rng: random.Random) -> list[tuple[int, int]]:
    """(seed position, end of the run) of blocks over every own run; like cycles, they overlap by a random amount."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], own.view(np.int8), [0]))))
    starts = []
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        at = begin
        while at < end - 1:
            starts.append((at, end))
            at += rng.randint(block // 4, block)
    return starts


def make_batch(
    windows: list[Window], blocks: int, block: int, mask_id: int, rng: random.Random, drafts: bool = False
) -> Batch:
    """A batch of AR rows (clean half) and, if `blocks` is not 0, diffusion rows (noisy half).

    With `drafts` every block is wholly masked.
    """
    length = len(windows[0].ids)
    size = (len(windows), length + blocks * block)
    tokens, positions = np.full(size, mask_id, np.int64), np.zeros(size, np.int64)
    target, weight = np.zeros(size, np.int64), np.zeros(size, np.float32)
    start = np.zeros((len(windows), blocks * block), np.int64)
    for row, window in enumerate(windows):
        ids, own = window.ids.astype(np.int64), window.own
        tokens[row, :length], positions[row, :length] = ids, np.arange(length)
        target[row, : length - 1], weight[row, : length - 1] = ids[1:], own[1:]
        starts = block_starts(own, block, rng)
        for slot, (at, end) in enumerate(rng.sample(starts, min(blocks, len(starts)))):
            here = slice(length + slot * block, length + (slot + 1) * block)
            positions[row, here] = np.arange(at, at + block)
            start[row, slot * block : (slot + 1) * block] = at
            run = min(block, end - at)
            rate = 1.0 if drafts or rng.random() < 0.5 else rng.uniform(MIN_RATE, 1.0)
            hidden = np.array([False] + [rng.random() < rate for _ in range(run - 1)])
            inside = slice(here.start, here.start + run)
            target[row, inside] = ids[at : at + run]
            tokens[row, inside] = np.where(hidden, mask_id, ids[at : at + run])
            weight[row, inside] = hidden / rate
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(target),
        torch.from_numpy(weight),
        torch.from_numpy(start),
        clean=length,
    )


def noisy_mask(batch: Batch, block: int) -> Tensor:
    """[B, 1, N, L + N] bool: clean keys before the block's seed, and all keys of the own block."""
    rows, noisy = batch.start.shape
    clean = torch.arange(batch.clean) < batch.start[:, :, None]
    index = torch.arange(noisy) // block
    own = (index[:, None] == index).expand(rows, noisy, noisy)
    return torch.cat((clean, own), dim=2)[:, None]


def attention(batch: Batch, block: int, groups: int) -> Attend:
    """The `attend` of one training pass: causal among clean rows, `noisy_mask` for noisy ones."""
    rows, total = batch.tokens.shape
    mask = noisy_mask(batch, block) if total > batch.clean else None

    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (rows, total)).transpose(1, 2) for x in (q, k, v))
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        c = batch.clean
        out = F.scaled_dot_product_attention(q[:, :, :c], k[:, :, :c], v[:, :, :c], is_causal=True)
        if mask is not None:
            out = torch.cat((out, F.scaled_dot_product_attention(q[:, :, c:], k, v, attn_mask=mask)), dim=2)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


@dataclass(frozen=True, slots=True)
class Losses:
    """`total` for the optimiser; per-token means in nats and token counts for people."""

    total: Tensor
    ar: float
    diffusion: float
    tokens: int
    own: int


def losses(forward: Callable[..., Tensor], model: Transformer, batch: Batch, block: int, alpha: float) -> Losses:
    """The weighted cross-entropy over the batch's loss rows, divided by one global token count (nld.md §6.5).

    `forward` is `model` or its compiled twin.
    """
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    hidden = forward(batch.tokens.flatten(), batch.positions.flatten(), attention(batch, block, groups))
    weight = batch.weight.flatten()
    rows = weight.nonzero().squeeze(1)
    ce = F.cross_entropy(model.head(hidden[rows]).float(), batch.target.flatten()[rows], reduction="none")
    noisy = (rows % batch.tokens.shape[1]) >= batch.clean
    weighted = ce * weight[rows]
    total = (weighted[~noisy].sum() + alpha * weighted[noisy].sum()) / rows.numel()
    return Losses(total, _mean(ce[~noisy]), _mean(ce[noisy]), batch.tokens.numel(), rows.numel())


def _mean(x: Tensor) -> float:
    return float(x.detach().mean()) if x.numel() else float("nan")
