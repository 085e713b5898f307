"""silu(x G^T) * (x U^T) with both matrices in one, in Triton.

Knows tiles and matrices. Fused into the product. For 32 rows of the 8B model the two halves are 1.8 MB to write and to
read again, against 235 MB of weights, so fusing saves little more than a launch. It costs nothing, because a program
with the same outputs of both halves reads the rows once for the two, and a matrix of this shape has enough outputs to
occupy the GPU without parts. The halves stay fp32 until their product is rounded once. Row-invariant as `linear` is.
"""

from __future__ import annotations

import typing

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused
from ..quantize import Quantized
from ..tiles import OUTPUTS
from .linear import Delta, check_delta, check_flags, delta_arguments, planned, with_delta
from .numerics import jit, launch, product, rounded


def gated(x: Tensor, weight: Tensor | Quantized, delta: Delta | None = None) -> Tensor:
    """Returns silu(gate) * up [T, I] of x [T, in], weight [2 I, in] with the gate's rows first.

    `delta`: what marked rows add to gate and up before silu. Raises TensorRefused.
    """
    plan = planned(x, weight, single=True)
    if weight.shape[0] % 2:
        raise TensorRefused(f"weight has {weight.shape[0]} rows; gate and up need an even number")
    rows, inputs = x.shape
    size = weight.shape[0] // 2
    values, scales = (weight.values, weight.scales) if isinstance(weight, Quantized) else (weight, None)
    y = torch.empty(rows, size, dtype=x.dtype, device=x.device)
    flags = None if delta is None else delta.flags
    if delta is not None:
        check_delta(x, weight.shape[0], delta)
        check_flags(x, delta.flags)
    if rows and size:
        _gated[(triton.cdiv(rows, plan.rows), triton.cdiv(size, OUTPUTS))](
            x, values, scales, flags, y, rows, size, inputs, x.stride(0), values.stride(0), **delta_arguments(delta),
            **launch(plan.warps, plan.stages, ROWS=plan.rows, OUTPUTS=OUTPUTS, STEP=plan.step),
        )  # fmt: skip
    return y


@jit("flags", counts=["rows"])
def _gated(
    x: typing.Any, weight: typing.Any, scales: typing.Any, flags: typing.Any, y: typing.Any, rows: typing.Any,
    size: typing.Any, inputs: typing.Any, x_row: typing.Any, weight_row: typing.Any, low: typing.Any, high: typing.Any,
    low_part: typing.Any, low_row: typing.Any, high_row: typing.Any, rank: typing.Any, PARTS: tl.constexpr,
    RANK: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, STEP: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of rows, tile of outputs)."""
    row, output = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    at, real, there = tl.arange(0, STEP), row < rows, output < size
    x_at = x + row.to(tl.int64)[None, :] * x_row + at[:, None]
    gate_at = weight + output.to(tl.int64)[:, None] * weight_row + at[None, :]
    up_at = gate_at + size.to(tl.int64) * weight_row
    gate = tl.zeros((OUTPUTS, ROWS), tl.float32)
    up = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for start in range(0, inputs, STEP):
        left = inputs - start
        inside = there[:, None] & (at[None, :] < left)
        part = tl.load(x_at + start, mask=real[None, :] & (at[:, None] < left), other=0.0)
        gate = product(tl.load(gate_at + start, mask=inside, other=0.0), part, gate)
        up = product(tl.load(up_at + start, mask=inside, other=0.0), part, up)
    if scales is not None:
        gate *= tl.load(scales + output, mask=there, other=0.0)[:, None]
        up *= tl.load(scales + size + output, mask=there, other=0.0)[:, None]
    if low is not None:
        marked = tl.load(flags + row, mask=real, other=0).to(tl.float32) != 0
        low_at = low + row.to(tl.int64)[None, :] * low_row
        high_at = high + output.to(tl.int64)[:, None] * high_row
        gate = with_delta(gate, 0, marked, low_at, low_part, high_at, there, rank, x.dtype.element_ty, PARTS, RANK)
        up_high = high_at + size.to(tl.int64) * high_row
        up = with_delta(up, 0, marked, low_at, low_part, up_high, there, rank, x.dtype.element_ty, PARTS, RANK)
    small = tl.exp(-tl.abs(gate))
    mixed = gate * tl.where(gate < 0, small, 1.0) / (1 + small) * up
    y_at = y + row.to(tl.int64)[None, :] * size + output[:, None]
    tl.store(y_at, rounded(mixed, y.dtype.element_ty), mask=there[:, None] & real[None, :])
