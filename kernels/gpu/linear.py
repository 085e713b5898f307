"""x [T, in] times a matrix [out, in] transposed, for few rows, in Triton.

Knows tiles and matrices. A program takes a tile of outputs, a tile of rows and a fixed range of the inputs, so that
every weight is read once for up to 128 rows (64 for weights in eight bits). Where a matrix has too few outputs to
occupy the GPU, several programs share an output (split-K) and write *parts*: fp32 sums that the next op adds in order
(`linear` by a launch of its own, the norm while it reads them).

Row-invariant: the tile of weights is the instruction's left operand and the rows are its columns, so from 1 row to 128
the same instruction (in bf16 wgmma m64 n16..n128 k16) adds the same 16 inputs at a time into the same fp32 accumulator
in the same order; another row is another column. Only `rows`, `outputs`, `warps` and `stages` of a tile depend on T;
they decide what shares a program (see `tiles`). fp32 uses multiply-adds in the same order.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_same_device, check_tensor
from ..quantize import Quantized
from ..tiles import Tiles, tiles
from .numerics import jit, launch, product, rounded

ROWS = (torch.float32, torch.bfloat16)
"""dtypes that rows may have."""
LARGEST_RANK = 32
"""Numbers of a low-rank term that a program multiplies at a time; a larger rank takes several steps."""
FOLD = 512
"""Outputs of one program that adds parts."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Low-rank term of marked rows: flags [T], 0 for no; parts [split, T, R] fp32 of the rows times A; B [out, R]."""

    flags: Tensor
    low: Tensor
    high: Tensor


def linear(x: Tensor, weight: Tensor | Quantized, onto: Tensor | None = None, delta: Delta | None = None) -> Tensor:
    """Returns x [T, in] times weight [out, in] transposed, added to `onto` [T, out] if given: [T, out].

    Sums in fp32, rounded once to x's dtype, fp32 or bf16. The weight is of that dtype or in eight bits. Rows may have
    gaps between them in memory. Raises TensorRefused.
    """
    plan = planned(x, weight)
    if plan.split > 1:
        return fold(parts(x, weight, delta=delta), x.dtype, onto)
    y = torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype, device=x.device)
    _check_onto(onto, y)
    _launch(x, weight, y, plan, onto, None, delta)
    return y


def parts(x: Tensor, weight: Tensor | Quantized, flags: Tensor | None = None, delta: Delta | None = None) -> Tensor:
    """Returns `linear` before its last sum: [split, T, out] fp32. The number of parts depends on the weight alone.

    `flags` [T]: rows with flag 0 are not needed; they are zeros if no row of their tile is needed. Raises
    TensorRefused.
    """
    plan = planned(x, weight)
    y = torch.empty(plan.split, x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    _launch(x, weight, y, plan, None, flags, delta)
    return y


def fold(parts: Tensor, dtype: torch.dtype, onto: Tensor | None = None) -> Tensor:
    """Adds parts [split, T, out] fp32 in order, then `onto` [T, out] if given -> [T, out]. Raises TensorRefused."""
    check_tensor("parts", parts, (None, None, None), (torch.float32,))
    split, rows, outputs = parts.shape
    y = torch.empty(rows, outputs, dtype=dtype, device=parts.device)
    _check_onto(onto, y)
    if rows:
        _fold[(rows, triton.cdiv(outputs, FOLD))](
            parts, onto, y, outputs, parts.stride(0), parts.stride(1), 0 if onto is None else onto.stride(0),
            **launch(4, PARTS=split, BLOCK=FOLD),
        )  # fmt: skip
    return y


def planned(x: Tensor, weight: Tensor | Quantized, single: bool = False) -> Tiles:
    """Checks the operands and returns the tiles of their product. Raises TensorRefused."""
    values = weight.values if isinstance(weight, Quantized) else weight
    check_tensor("x", x, (None, None), ROWS)
    if isinstance(weight, Quantized):
        check_tensor("weight", values, (None, x.shape[1]), (torch.int8, torch.float8_e4m3fn))
        check_tensor("scales", weight.scales, (values.shape[0],), (torch.float32,))
        check_same_device(x, scales=weight.scales)
    else:
        check_tensor("weight", values, (None, x.shape[1]), (x.dtype,))
    check_same_device(x, weight=values)
    return tiles(max(1, x.shape[0]), values.shape[0], values.shape[1], values.dtype, single)


def _check_onto(onto: Tensor | None, y: Tensor) -> None:
    if onto is not None:
        check_tensor("onto", onto, tuple(y.shape), (y.dtype,))
        check_same_device(y, onto=onto)


def _launch(
    x: Tensor, weight: Tensor | Quantized, y: Tensor, plan: Tiles, onto: Tensor | None, flags: Tensor | None,
    delta: Delta | None,
) -> None:  # fmt: skip
    rows, inputs = x.shape
    outputs = weight.shape[0]
    values, scales = (weight.values, weight.scales) if isinstance(weight, Quantized) else (weight, None)
    if delta is not None:
        flags = delta.flags
        check_delta(x, outputs, delta)
    if flags is not None:
        check_flags(x, flags)
    if rows and outputs:
        _products[(triton.cdiv(rows, plan.rows), triton.cdiv(outputs, plan.outputs), plan.split)](
            x, values, scales, onto, flags, y, rows, outputs, inputs, plan.chunk, x.stride(0), values.stride(0),
            0 if onto is None else onto.stride(0), **delta_arguments(delta),
            **launch(plan.warps, plan.stages, ROWS=plan.rows, OUTPUTS=plan.outputs, STEP=plan.step),
        )  # fmt: skip


def check_flags(x: Tensor, flags: Tensor) -> None:
    check_tensor("flags", flags, (x.shape[0],), (torch.bool, *ROWS))
    check_same_device(x, flags=flags)


def check_delta(x: Tensor, outputs: int, delta: Delta) -> None:
    check_tensor("low", delta.low, (None, x.shape[0], None), (torch.float32,))
    check_tensor("high", delta.high, (outputs, delta.low.shape[2]), (x.dtype,))


def delta_arguments(delta: Delta | None) -> dict[str, typing.Any]:
    """Returns the arguments of a kernel that calls `with_delta`; without a term, None and zeros."""
    if delta is None:
        return {
            "low": None, "high": None, "low_part": 0, "low_row": 0, "high_row": 0, "rank": 0, "PARTS": 0, "RANK": 0,
        }  # fmt: skip
    split, _, rank = delta.low.shape
    return {
        "low": delta.low, "high": delta.high, "low_part": delta.low.stride(0), "low_row": delta.low.stride(1),
        "high_row": delta.high.stride(0), "rank": rank, "PARTS": split,
        "RANK": min(LARGEST_RANK, max(16, triton.next_power_of_2(rank))),
    }  # fmt: skip


@triton.jit
def summed(parts: typing.Any, step: typing.Any, mask: typing.Any, PARTS: tl.constexpr) -> typing.Any:
    """Loads the numbers at pointers `parts` and PARTS - 1 more, each `step` further, and adds them in order in fp32."""
    total = tl.load(parts, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):  # pyright: ignore[reportGeneralTypeIssues]
        total += tl.load(parts + part * step, mask=mask, other=0.0)
    return total


@triton.jit
def _fold(
    parts: typing.Any, onto: typing.Any, y: typing.Any, outputs: typing.Any, part: typing.Any, row_step: typing.Any,
    onto_row: typing.Any, PARTS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row, tile of outputs)."""
    row, output = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = output < outputs
    total = summed(parts + row * row_step + output, part, there, PARTS)
    if onto is not None:
        total += tl.load(onto + row * onto_row + output, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * outputs + output, rounded(total, y.dtype.element_ty), mask=there)


@triton.jit
def with_delta(
    total: typing.Any, part: typing.Any, marked: typing.Any, low: typing.Any, low_part: typing.Any, high: typing.Any,
    there: typing.Any, rank: typing.Any, DTYPE: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr,
) -> typing.Any:  # fmt: skip
    """Adds B times low to marked columns of total [OUTPUTS, ROWS]; low [1, ROWS] and high [OUTPUTS, 1] are pointers.

    RANK numbers of the term are multiplied at a time, in a loop that loads nothing in advance, because the product
    before it has taken registers and shared memory.
    """
    if (part == 0) & (tl.max(marked.to(tl.int32), 0) != 0):
        term = tl.zeros_like(total)
        for start in tl.range(0, rank, RANK, num_stages=1):  # pyright: ignore[reportGeneralTypeIssues]
            at = start + tl.arange(0, RANK)
            inside = marked[None, :] & (at < rank)[:, None]
            short = rounded(summed(low + at[:, None], low_part, inside, PARTS), DTYPE)
            b = tl.load(high + at[None, :], mask=there[:, None] & (at < rank)[None, :], other=0.0)
            term = product(b, short, term)
        total = tl.where(marked[None, :], total + term, total)
    return total


@jit("flags", counts=["rows"])
def _products(
    x: typing.Any, weight: typing.Any, scales: typing.Any, onto: typing.Any, flags: typing.Any, y: typing.Any,
    rows: typing.Any, outputs: typing.Any, inputs: typing.Any, chunk: typing.Any, x_row: typing.Any,
    weight_row: typing.Any, onto_row: typing.Any, low: typing.Any, high: typing.Any, low_part: typing.Any,
    low_row: typing.Any, high_row: typing.Any, rank: typing.Any, PARTS: tl.constexpr, RANK: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, STEP: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of rows, tile of outputs, part); y [parts, T, out]."""
    row, output = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    part, at = tl.program_id(2), tl.arange(0, STEP)
    real, there = row < rows, output < outputs
    first = part * chunk
    last = tl.minimum(first + chunk, inputs)
    marked = real
    if flags is not None:
        marked = tl.load(flags + row, mask=real, other=0).to(tl.float32) != 0
        if low is None:
            last = tl.where(tl.max(marked.to(tl.int32), 0) != 0, last, first)
    x_at = x + row.to(tl.int64)[None, :] * x_row + at[:, None]
    weight_at = weight + output.to(tl.int64)[:, None] * weight_row + at[None, :]
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for start in range(first, last, STEP):
        left = last - start
        w = tl.load(weight_at + start, mask=there[:, None] & (at[None, :] < left), other=0.0)
        total = product(w, tl.load(x_at + start, mask=real[None, :] & (at[:, None] < left), other=0.0), total)
    if scales is not None:
        total *= tl.load(scales + output, mask=there, other=0.0)[:, None]
    if low is not None:
        total = with_delta(
            total, part, marked, low + row.to(tl.int64)[None, :] * low_row, low_part,
            high + output.to(tl.int64)[:, None] * high_row, there, rank, x.dtype.element_ty, PARTS, RANK,
        )  # fmt: skip
    inside = there[:, None] & real[None, :]
    if onto is not None:
        total += tl.load(onto + row.to(tl.int64)[None, :] * onto_row + output[:, None], mask=inside, other=0.0)
    y_at = y + (part.to(tl.int64) * rows + row[None, :]) * outputs + output[:, None]
    tl.store(y_at, rounded(total, y.dtype.element_ty), mask=inside)
