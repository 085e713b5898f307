"""Attention of a ragged pass over paged keys and values and over the pass's own rows, in Triton.

Knows layouts. The same op as `reference.attention`, as split-KV attention in two kernels: `_partials` attends from one
tile of rows to one split of the keys, `_merge` combines the splits of a row. A tile holds rows of one trunk or branch
with all query heads that share a key-value head, so that keys and values are loaded once for them.

Row-invariant by construction: tiles have one shape, keys are read in steps of `PAGE` from position 0 or from the
branch's first row, and the splits of a row follow from its own `seen` alone. Keys that other rows of a tile see and
this row does not add exact zeros. Nothing waits for the device, so a CUDA graph can capture the pass.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused, check_same_device, check_tensor
from ..layout import PAGE, Layout
from .numerics import jit, launch, product, rounded

TILE_HEADS: Final = {torch.bfloat16: 64, torch.float32: 16}
"""Query heads of a tile (rows times query heads per key-value head), by dtype; fixed, because it fixes the instruction.

fp32 is multiplied without tensor cores; a larger tile does not fit the registers.
"""
SPLIT: Final = 256
"""Keys of a split; doubled until no row has more than `MAX_SPLITS` splits."""
MAX_SPLITS: Final = 16
_LARGEST_HEAD: Final = 256
_LOG2E: Final = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile i is the rows first[i] .. first[i] + count[i] - 1; both [tiles] int64, count 0 for unused entries."""

    first: Tensor
    count: Tensor


def tiles(layout: Layout, share: int, dtype: torch.dtype, most: int | None = None) -> Tiles:
    """Cuts a pass into tiles of adjacent rows of one trunk or branch whose splits have the same length.

    `share`: query heads per key-value head. `most`: a number of tiles that the caller knows to suffice; None: one per
    row. A trunk or branch of n rows takes ceil(n / (TILE_HEADS[dtype] // share)) tiles, and its rows have at most two
    split lengths. Too small a number fails an assertion on the device.
    """
    rows, device = layout.seen.shape[0], layout.seen.device
    most = rows if most is None else most
    own = layout.own_count > 0
    edges = SPLIT * MAX_SPLITS << torch.arange(16, device=device)  # computed on the device: no copy
    kinds = torch.stack((layout.request, own, layout.own_first.where(own, -1), torch.bucketize(layout.seen, edges)))
    at = torch.arange(rows, device=device)
    changed = torch.ones(rows, dtype=torch.bool, device=device)
    changed[1:] = (kinds[:, 1:] != kinds[:, :-1]).any(0)
    within = at - at.where(changed, 0).cummax(0).values
    tile = (within % (TILE_HEADS[dtype] // share) == 0).cumsum(0) - 1
    torch.ops.aten._assert_async.msg((tile < most).all(), "attention tiles: the pass needs more than `most`")
    first = torch.full((rows,), rows, device=device).scatter_reduce(0, tile, at, "amin")
    count = torch.zeros_like(at).scatter_add(0, tile, torch.ones_like(at))
    return Tiles(first[:most], count[:most])


def attention(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """Attends from each row to what it sees, as `reference.attention`: x [T, queries + 2 K, D] -> [T, queries, D].

    x, keys and values are all fp32 or all bf16, with stride 1 in the last dimension; sums are fp32. Tiles are read from
    `layout.cache["tiles"]`, or computed and stored there. Raises TensorRefused.
    """
    (rows, _, dim), groups = x.shape, keys.shape[1]
    _check(x, queries, keys, values, layout)
    if "tiles" not in layout.cache:
        layout.cache["tiles"] = tiles(layout, queries // groups, x.dtype)
    cut: Tiles = layout.cache["tiles"]
    out = torch.empty(rows, queries, dim, dtype=x.dtype, device=x.device)
    if not rows:
        return out
    width = min(MAX_SPLITS, -(-layout.tables.shape[1] * PAGE // SPLIT)) + 1
    mixed = torch.empty(rows, queries, width, dim, dtype=torch.float32, device=x.device)
    sums = torch.empty(rows, queries, width, 2, dtype=torch.float32, device=x.device)
    sees = (layout.seen, layout.own_first, layout.own_count)
    sizes: dict[str, Any] = {
        "QUERIES": queries, "DIM": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        "SPLIT": SPLIT, "MAX_SPLITS": MAX_SPLITS,
    }  # fmt: skip
    half = x.dtype == torch.bfloat16
    _partials[(cut.first.shape[0], groups, width)](
        x, keys, values, cut.first, cut.count, layout.tables, layout.request, *sees, mixed, sums,
        x.stride(0), x.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0), values.stride(1),
        values.stride(2), layout.tables.stride(0), dim**-0.5 * _LOG2E,
        **launch(
            4 if half and dim <= 128 else 8, stages=2 if half else 1, SHARE=queries // groups, GROUPS=groups,
            TILE_HEADS=TILE_HEADS[x.dtype], PAGE=PAGE, **sizes,
        ),
    )  # fmt: skip
    _merge[(rows, queries)](
        mixed, sums, layout.seen, layout.own_count, out, width,
        **launch(4, BLOCK_P=triton.next_power_of_2(MAX_SPLITS + 1), **sizes),
    )  # fmt: skip
    return out


def _check(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> None:
    groups, dim = keys.shape[1], x.shape[-1]
    check_tensor("x", x, (None, queries + 2 * groups, None), tuple(TILE_HEADS))
    check_tensor("keys", keys, (None, groups, dim, PAGE), (x.dtype,))
    check_tensor("values", values, (keys.shape[0], groups, PAGE, dim), (x.dtype,))
    check_tensor("tables", layout.tables, (None, None), (torch.int64,))
    columns = {name: getattr(layout, name) for name in ("request", "seen", "own_first", "own_count")}
    for name, column in columns.items():
        check_tensor(name, column, (x.shape[0],), (torch.int64,))
    check_same_device(x, keys=keys, values=values, tables=layout.tables, **columns)
    if queries % groups or not 0 < queries // groups <= TILE_HEADS[x.dtype]:
        raise TensorRefused(
            f"{queries} query heads over {groups} key-value heads; their ratio is to be whole, at most "
            f"{TILE_HEADS[x.dtype]}"
        )
    if dim > _LARGEST_HEAD:
        raise TensorRefused(f"heads have {dim} dimensions; this op takes at most {_LARGEST_HEAD}")


@triton.jit
def _split_length(seen: typing.Any, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr) -> typing.Any:
    """Returns the keys per split of a row that sees `seen` positions of its pages."""
    length = SPLIT
    while length * MAX_SPLITS < seen:
        length *= 2
    return length


@triton.jit
def _fold(
    q: typing.Any, k: typing.Any, v: typing.Any, shown: typing.Any, scale: typing.Any, top: typing.Any,
    total: typing.Any, mixed: typing.Any,
) -> typing.Any:  # fmt: skip
    """Adds one tile of keys k [D, PAGE] and values v [PAGE, D] to the online softmax of q [TILE_HEADS, D]."""
    scores = product(q, k, tl.zeros([q.shape[0], k.shape[1]], tl.float32))
    scores = tl.where(shown, scores * scale, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(weights, 1)
    mixed = product(weights, v, mixed * shrink[:, None])
    return higher, total, mixed


@jit("tile_first", "tile_count", "tables", "requests", "seen", "own_first", "own_count", counts=["table_row"])
def _partials(
    x: typing.Any, keys: typing.Any, values: typing.Any, tile_first: typing.Any, tile_count: typing.Any,
    tables: typing.Any, requests: typing.Any, seen: typing.Any, own_first: typing.Any, own_count: typing.Any,
    out: typing.Any, sums: typing.Any, x_row: typing.Any, x_head: typing.Any, k_page: typing.Any, k_head: typing.Any,
    k_dim: typing.Any, v_page: typing.Any, v_head: typing.Any, v_key: typing.Any, table_row: typing.Any,
    scale: typing.Any, QUERIES: tl.constexpr, SHARE: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, TILE_HEADS: tl.constexpr, PAGE: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile, key-value head, split); the last split is the pass's own rows."""
    first, count = tl.load(tile_first + tl.program_id(0)), tl.load(tile_count + tl.program_id(0))
    if count == 0:
        return
    group, split, width = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    slot, dims, offsets = tl.arange(0, TILE_HEADS), tl.arange(0, BLOCK_D), tl.arange(0, PAGE)
    row, head = first + slot // SHARE, group * SHARE + slot % SHARE
    real, inside = slot // SHARE < count, dims < DIM
    own = split == width - 1
    limit = tl.load((own_count if own else seen) + row, mask=real, other=0)
    most: typing.Any = tl.max(limit, 0)
    start: typing.Any = most * 0
    if not own:
        length = _split_length(most, SPLIT, MAX_SPLITS)
        start += split * length
        most = tl.minimum(start + length, most)
    if start < most:
        q = tl.load(x + row[:, None] * x_row + head[:, None] * x_head + dims, mask=real[:, None] & inside, other=0)
        top = tl.full([TILE_HEADS], -1e30, tl.float32)
        total = tl.zeros([TILE_HEADS], tl.float32)
        mixed = tl.zeros([TILE_HEADS, BLOCK_D], tl.float32)
        if own:
            begin = tl.load(own_first + first)
            for at in range(start, most, PAGE):
                key = at + offsets
                there = x + (begin + key) * x_row + (QUERIES + group) * x_head
                k = tl.load(there[None] + dims[:, None], mask=inside[:, None] & (key < most), other=0)
                v = tl.load(there[:, None] + GROUPS * x_head + dims, mask=(key < most)[:, None] & inside, other=0)
                top, total, mixed = _fold(q, k, v, key < limit[:, None], scale, top, total, mixed)
        else:
            table = tables + tl.load(requests + first) * table_row
            for at in range(start, most, PAGE):
                key = at + offsets
                page = tl.load(table + at // PAGE)
                k_at = keys + page * k_page + group * k_head
                v_at = values + page * v_page + group * v_head
                k = tl.load(k_at + dims[:, None] * k_dim + offsets, mask=inside[:, None] & (key < most), other=0)
                v = tl.load(v_at + offsets[:, None] * v_key + dims, mask=(key < most)[:, None] & inside, other=0)
                top, total, mixed = _fold(q, k, v, key < limit[:, None], scale, top, total, mixed)
        place = (row * QUERIES + head) * width + split
        tl.store(out + place[:, None] * DIM + dims, mixed, mask=real[:, None] & inside)
        tl.store(sums + place * 2, top, mask=real)
        tl.store(sums + place * 2 + 1, total, mask=real)


@jit("seen", "own_count", counts=["width"])
def _merge(
    mixed: typing.Any, sums: typing.Any, seen: typing.Any, own_count: typing.Any, out: typing.Any, width: typing.Any,
    QUERIES: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row, query head): combines its splits and its own rows; zero for a row that sees nothing."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part, dims = tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_D)
    limit = tl.load(seen + row)
    own = part == MAX_SPLITS
    left: typing.Any = tl.where(own, tl.load(own_count + row), limit - part * _split_length(limit, SPLIT, MAX_SPLITS))
    there = (left > 0) & (part <= MAX_SPLITS)
    place = (row * QUERIES + head) * width + tl.where(own, width - 1, part)
    tops = tl.load(sums + place * 2, mask=there, other=-1e30)
    grow = tl.exp2(tops - tl.max(tops))
    total: typing.Any = tl.sum(tl.load(sums + place * 2 + 1, mask=there, other=0) * grow)
    parts = tl.load(mixed + place[:, None] * DIM + dims, mask=there[:, None] & (dims < DIM), other=0)
    result = tl.sum(parts * grow[:, None], 0) / tl.where(total > 0, total, 1.0)
    here = out + (row * QUERIES + head) * DIM + dims
    tl.store(here, rounded(result, out.dtype.element_ty), mask=dims < DIM)
