"""RMSNorm of a row after it was added to a residual, in Triton.

Knows rows, and parts as `linear` leaves them. The last sum of a split product, the residual and the norm take one read
and one write of the row. One program per row, whose sums depend on the row's size alone: row-invariant.
"""

from __future__ import annotations

import typing

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused, check_same_device, check_tensor
from .linear import ROWS, summed
from .numerics import launch, rounded

LARGEST = 16384
"""Numbers of a row that a program can hold in registers."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """Returns `reference.rms_norm`: x [T, E] / rms(x) * weight [E]. Rows may have gaps between them.

    `groups`: equal parts of a row that are normalised each on its own. Raises TensorRefused.
    """
    check_tensor("x", x, (None, None), ROWS)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x[None], None, weight, y, None, eps, groups)
    return y


def add_rms_norm(x: Tensor, onto: Tensor, weight: Tensor, eps: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Returns (onto + x, its RMSNorm): x [T, E], or parts [split, T, E] fp32 to add first; onto [T, E], weight [E].

    The sum is rounded to onto's dtype before the norm reads it, as if it had been stored. Raises TensorRefused.
    """
    check_tensor("onto", onto, (None, None), ROWS)
    if x.ndim == 3:
        check_tensor("x", x, (None, *onto.shape), (torch.float32,))
    else:
        check_tensor("x", x, tuple(onto.shape), (onto.dtype,))
    total, y = (torch.empty(onto.shape, dtype=onto.dtype, device=onto.device) for _ in range(2))
    _launch(x if x.ndim == 3 else x[None], onto, weight, y, total, eps, groups)
    return total, y


def _launch(
    parts: Tensor, onto: Tensor | None, weight: Tensor, y: Tensor, total: Tensor | None, eps: float, groups: int
) -> None:
    split, rows, size = parts.shape
    check_tensor("weight", weight, (size,), (y.dtype,))
    check_same_device(y, x=parts, onto=onto, weight=weight)
    if size > LARGEST:
        raise TensorRefused(f"rows of {size} numbers are too long for one program; at most {LARGEST}")
    if groups < 1 or size % groups:
        raise TensorRefused(f"rows of {size} numbers cannot be cut into {groups} equal groups")
    if rows:
        block, several = triton.next_power_of_2(size // groups), triton.next_power_of_2(groups)
        _norm[(rows,)](
            parts, onto, weight, total, y, size, size // groups, parts.stride(0), parts.stride(1),
            0 if onto is None else onto.stride(0), eps,
            **launch(min(16, max(4, several * block // 512)), PARTS=split, GROUPS=several, BLOCK=block),
        )  # fmt: skip


@triton.jit
def _norm(
    x: typing.Any, onto: typing.Any, weight: typing.Any, total: typing.Any, y: typing.Any, size: typing.Any,
    own: typing.Any, part: typing.Any, x_row: typing.Any, onto_row: typing.Any, eps: typing.Any, PARTS: tl.constexpr,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row,). A row is GROUPS x BLOCK numbers, of which the first `own` of a group exist."""
    row, group, inside = tl.program_id(0).to(tl.int64), tl.arange(0, GROUPS)[:, None], tl.arange(0, BLOCK)[None, :]
    at = group * own + inside
    there = (inside < own) & (at < size)
    wide = summed(x + row * x_row + at, part, there, PARTS)
    if onto is not None:
        wide += tl.load(onto + row * onto_row + at, mask=there, other=0.0).to(tl.float32)
        short = rounded(wide, y.dtype.element_ty)
        tl.store(total + row * size + at, short, mask=there)
        wide = short.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, axis=1) / own + eps)[:, None]
    wide = rounded(wide, y.dtype.element_ty).to(tl.float32)
    wide *= tl.load(weight + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * size + at, rounded(wide, y.dtype.element_ty), mask=there)
