"""Every op in plain torch, written to be obviously correct. Knows tensors only.

On CPU these also run in production. They are *row-invariant*: a row's bits do not depend on the number of other rows in
the batch. `fixed_shape` achieves that: library calls of one shape, sums in a fixed order, attention over tiles of
`PAGE` keys at fixed positions. The remaining operations are single additions, products, quotients and roots, which IEEE
754 rounds in one way, in a vector and in its tail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import block
from ..blocks import Blocks
from ..layout import PAGE, Layout, LowRank, SampledTokens
from ..quantize import Quantized, dequantize
from . import attend, fixed_shape
from .noise import gumbel as gumbel

name = "torch"
row_tile = 1
"""Row multiple of a pass: 1, because products pad their own rows."""
queued = False
packing: str = ""
packer: None = None
exact = True
"""Whether rows are invariant; see `ops.Kernels`."""


def linear(x: Tensor, weight: Tensor | Quantized | Blocks, onto: Tensor | None = None) -> Tensor:
    """Returns x [T, in] times weight [out, in] transposed, added to `onto` if given: [T, out].

    A weight in eight or four bits is restored to x's dtype. Under autograd this is one call of the library, whose rows
    may depend on the batch.
    """
    if isinstance(weight, Quantized | Blocks):
        weight = dequantize(weight, x.dtype)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y = F.linear(x, weight) if learns else fixed_shape.product(x, weight)
    return y if onto is None else onto + y


def prepare(weight: Tensor) -> Tensor:
    """Returns a matrix in the form that `linear` of this module takes."""
    return weight


def lookup(weight: Tensor, ids: Tensor) -> Tensor:
    """Returns the rows [T, in] of a prepared matrix."""
    return weight[ids]


def prepare_adapter(terms: Sequence[LowRank], outputs: int) -> tuple[LowRank, ...]:
    """Returns the terms of an adapter at one product as one term, in the form that `linear` takes, unrounded."""
    return block.joined_terms(terms, outputs)


def rms_norm(x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """Returns x [T, E] / rms(x) * weight [E], with the mean square in fp32; under autograd summed by the library.

    `groups`: equal parts of a row, each with a root mean square of its own.
    """
    wide = x.float().reshape(-1, x.shape[-1] // groups)
    square = wide * wide
    mean = square.mean(-1, keepdim=True) if x.requires_grad else fixed_shape.total(square) / wide.shape[-1]
    wide = wide * torch.rsqrt(mean + eps)
    return weight * wide.to(x.dtype).view(x.shape)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) * up, both [T, I].

    Under autograd this is torch's silu, whose gradient is finite everywhere.
    """
    if gate.requires_grad:
        return F.silu(gate) * up
    wide = gate.float()
    return (wide / (1 + fixed_shape.exp(-wide))).to(gate.dtype) * up


def swiglu(both: Tensor) -> Tensor:
    """Returns silu(gate) * up [T, I] of both [T, 2 I], gate first."""
    gate, up = both.chunk(2, dim=-1)
    return silu_mul(gate, up)


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor, heads: int, queries: int, scale: Tensor | None) -> None:
    """Rotates the first `heads` of x [T, N, D] in place by cos and sin [T, D]; scales the first `queries` by [T]."""
    x[:, :heads] = rotate(x[:, :heads], cos[:, None], sin[:, None])
    if scale is not None:
        x[:, :queries] *= scale[:, None, None].to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary embedding in the half-rotation layout: x [T, H, D], cos and sin [T, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


forward: partial[tuple[Tensor, list[SampledTokens]]] = partial(block.forward, sys.modules[__name__])
"""A pass by the ops of this module; see `block.forward`."""
choose: partial[list[SampledTokens]] = partial(block.choose, sys.modules[__name__])
"""Token choice by `sample_rows` of this module; see `block.choose`."""


def keep(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> None:
    """Writes the pass's keys and values into one layer's pages: keys [pages, K, D, PAGE], values [pages, K, PAGE, D].

    x [T, queries + 2 K, D] contains queries, keys and values.
    """
    if "kept" not in layout.cache:
        rows = (layout.slot >= 0).nonzero()[:, 0]
        layout.cache["kept"] = rows, layout.slot[rows] // PAGE, layout.slot[rows] % PAGE
    rows, pages, offsets = layout.cache["kept"]
    _, k, v = x[rows].split([queries, keys.shape[1], keys.shape[1]], dim=1)
    keys[pages, :, :, offsets] = k
    values[pages, :, offsets] = v


attention: partial[Tensor] = partial(attend.attention, fixed_shape.FIXED)
"""Attention by row-invariant arithmetic; see `attend.attention`."""


def sample_rows(
    logits: Tensor,
    banned: Tensor,
    allowed: Tensor | None,
    noise: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """Runs the head epilogue: logits [R, V] -> (tokens [R] int64, confidence [R] fp32).

    tokens = argmax of masked logits at temperature 0, else of filtered(masked logits / T) + noise [R, V]. `banned` [V]
    bool is never chosen; `allowed` [R, ceil(V / 32)] int32 is the grammar's bit mask. Confidence is the token's
    probability at temperature 1 among the allowed tokens, banned ones included in the sum (nld.md §8.6).
    """
    wide = logits.float()
    if allowed is not None:
        wide = wide.masked_fill(~unpack_mask(allowed, wide.shape[-1]), float("-inf"))
    scores = wide.masked_fill(banned, float("-inf"))
    if noise is not None:
        scores = filtered(scores / temperature, top_k, top_p) + noise
    tokens = scores.argmax(-1)
    top = wide.amax(-1, keepdim=True)
    chosen = fixed_shape.exp(wide.gather(-1, tokens[:, None]) - top)
    return tokens, (chosen / fixed_shape.total(fixed_shape.exp(wide - top)))[:, 0]


def unpack_mask(mask: Tensor, size: int) -> Tensor:
    """Unpacks a [R, W] int32 bit mask to [R, size] bool."""
    bits = torch.arange(32, device=mask.device, dtype=torch.int32)
    return ((mask[..., None] >> bits) & 1).bool().flatten(-2)[..., :size]


def filtered(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets scores [R, V] to -inf outside the top_k best and the smallest set whose probability reaches top_p."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k, dim=-1).values[:, -1:], float("-inf"))
    if top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        weights = fixed_shape.exp(ordered - ordered[:, :1])
        probability = weights / fixed_shape.total(weights)
        # cumsum adds each row's numbers one by one, so its order does not depend on the batch.
        beyond = probability.cumsum(-1) - probability >= top_p
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), float("-inf"))
    return scores
