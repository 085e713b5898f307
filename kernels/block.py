"""A forward pass composed of single ops, for implementations without a fused pass of their own.

Knows ops by their names only. Shapes: T rows, H query heads, K key-value heads, D head dimension, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .layout import NO_ADAPTER, Adapter, Block, Choice, Layout, LowRank, Rotation, SampledTokens, Stack


def forward(
    ops: Any,
    x: Tensor,
    stack: Stack,
    rotation: Rotation,
    flags: Tensor | None,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
    read: Tensor,
    choices: Sequence[Choice],
) -> tuple[Tensor, list[SampledTokens]]:
    """Runs a pass over x [T, E]. Returns logits [len(read), V] of the rows in `read`, and the tokens of each choice.

    keys and values [layers, ...] are the pages of each block.
    """
    for block, k, v in zip(stack.blocks, keys, values, strict=True):
        x = run_block(ops, x, block, rotation, flags, k, v, layout)
    return logits_and_tokens(ops, x, stack, read, choices)


def logits_and_tokens(
    ops: Any, x: Tensor, stack: Stack, read: Tensor, choices: Sequence[Choice]
) -> tuple[Tensor, list[SampledTokens]]:
    """Returns what `forward` returns, from x [T, E] after all blocks."""
    logits = ops.linear(ops.rms_norm(x[read], stack.norm, stack.eps, stack.norm_groups), stack.head)
    return logits, ops.choose(logits, choices)


def choose(ops: Any, logits: Tensor, choices: Sequence[Choice]) -> list[SampledTokens]:
    """Returns the tokens of each choice from logits [R, V], by `ops.sample_rows`, which receives the noise."""
    return [_chosen(ops, logits, choice) for choice in choices]


def _chosen(ops: Any, logits: Tensor, choice: Choice) -> SampledTokens:
    rows, params = logits[choice.row : choice.row + len(choice.positions)], choice.sampling
    allowed = stacked(choice.masks).to(rows.device) if choice.masks else None
    noise = params.noise(choice.positions)
    tokens, confidence = ops.sample_rows(
        rows, choice.banned, allowed, noise, params.temperature, params.top_k, params.top_p
    )
    return SampledTokens(tokens.tolist(), confidence.tolist())


def stacked(masks: Sequence[Tensor | None]) -> Tensor:
    """Stacks mask rows to [R, W]; None rows allow everything. At least one row must be a mask."""
    allow_all = torch.full_like(next(mask for mask in masks if mask is not None), -1)
    return torch.stack([allow_all if mask is None else mask for mask in masks])


def run_block(
    ops: Any,
    x: Tensor,
    weights: Block,
    rotation: Rotation,
    flags: Tensor | None,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
) -> Tensor:
    """Returns x [T, E] after the block. `flags` [T, 1] is 1 for rows that take the adapter; None for no row."""
    heads, adapter = weights.queries + weights.groups, adapter_of(weights, flags)
    normed = ops.rms_norm(x, weights.norms[0], weights.eps, weights.norm_groups)
    qkv = adapted_linear(ops, normed, weights.qkv, adapter.qkv, flags).unflatten(-1, (-1, weights.dim))
    if weights.head_norms is not None:
        _norm_heads(ops, qkv, weights, weights.head_norms)
    ops.rotate_heads(qkv, rotation.cos, rotation.sin, heads, weights.queries, rotation.scale)
    ops.keep(qkv, weights.queries, keys, values, layout)
    mixed = ops.attention(qkv, weights.queries, keys, values, layout).flatten(1)
    x = adapted_linear(ops, mixed, weights.out, adapter.out, flags, x)
    normed = ops.rms_norm(x, weights.norms[1], weights.eps, weights.norm_groups)
    both = adapted_linear(ops, normed, weights.gate_up, adapter.gate_up, flags)
    return adapted_linear(ops, ops.swiglu(both), weights.down, adapter.down, flags, x)


def adapter_of(weights: Block, flags: Tensor | None) -> Adapter:
    """Returns the terms that a pass adds; none if no row is marked."""
    return NO_ADAPTER if flags is None or weights.adapter is None else weights.adapter


def adapted_linear(
    ops: Any, x: Tensor, weight: Any, terms: tuple[LowRank, ...], flags: Tensor | None, onto: Tensor | None = None
) -> Tensor:
    """Returns `ops.linear`, and for rows with a flag the term that `joined_terms` made of all terms of the product.

    Whatever the term is for a row without a flag, infinities included, it does not reach the row.
    """
    for term in terms:
        assert flags is not None
        onto = ops.linear(ops.linear(x, term.low).masked_fill(flags == 0, 0), term.high, onto)
    return ops.linear(x, weight, onto)  # type: ignore[no-any-return]


def joined_terms(terms: Sequence[LowRank], outputs: int) -> tuple[LowRank, ...]:
    """Returns terms of one product as one term over all `outputs`: A's one below the other, B's on a diagonal.

    So one product with few rows serves several; the zeros beside the diagonal change no sum.
    """
    if len(terms) == 1 and terms[0].high.shape[0] == outputs:
        return (terms[0],)
    if not terms:
        return ()
    low = torch.cat([term.low for term in terms])
    high, rank = low.new_zeros(outputs, low.shape[0]), 0
    for term in terms:
        columns, own = term.high.shape
        high[term.first : term.first + columns, rank : rank + own] = term.high
        rank += own
    return (LowRank(0, low, high),)


def _norm_heads(ops: Any, qkv: Tensor, weights: Block, norms: tuple[Tensor, Tensor]) -> None:
    """Normalises each query and key head of qkv [T, H + 2 K, D] in place."""
    parts = qkv.split([weights.queries, weights.groups, weights.groups], dim=1)
    for part, norm in zip(parts, norms, strict=False):
        part.copy_(ops.rms_norm(part.flatten(0, 1).contiguous(), norm, weights.eps).view_as(part))
