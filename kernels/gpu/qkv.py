"""What follows the fused QKV projection, in one Triton kernel: head norms, rotation, query scale, writing the cache.

Knows one layer's pages. Each head is read and written once. It rounds less often than the reference, because a head is
fp32 from its load to its store, where the reference rounds after each op.
"""

from __future__ import annotations

import typing
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused, check_same_device, check_tensor
from ..layout import PAGE, Layout, Rotation
from ..reference import torch_ops
from .numerics import jit, launch, rounded

_DTYPES: Final = (torch.float32, torch.bfloat16)


def place_in_torch(
    x: Tensor,
    queries: int,
    head_norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: Rotation,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
) -> None:
    """Does what `place` does, by the ops of the reference."""
    groups = keys.shape[1]
    if head_norms is not None:
        for part, norm in zip(x.split([queries, groups, groups], dim=1), head_norms, strict=False):
            part.copy_(torch_ops.rms_norm(part, norm, eps))
    torch_ops.rotate_heads(x, rotation.cos, rotation.sin, queries + groups, queries, rotation.scale)
    torch_ops.keep(x, queries, keys, values, layout)


def place(
    x: Tensor,
    queries: int,
    head_norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: Rotation,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
) -> None:
    """Prepares x [T, queries + 2 K, D] in place; writes one layer's pages [pages, K, D, PAGE] and [pages, K, PAGE, D].

    Queries and keys are normalised by `head_norms` [D] each, if given, and rotated; queries are scaled; then the keys
    and values of rows with a slot are written to their pages. x, keys and values are all fp32 or all bf16, with stride
    1 in the last dimension. Raises TensorRefused.
    """
    _check(x, queries, head_norms, rotation, keys, values, layout)
    rows, heads, dim = x.shape
    if not rows:
        return
    # A missing tensor is replaced by another one, and a constant tells the kernel not to read it.
    q_norm, k_norm = head_norms or (x, x)
    _place[(rows, heads)](
        x, q_norm, k_norm, rotation.cos, rotation.sin, x if rotation.scale is None else rotation.scale, layout.slot,
        keys, values, x.stride(0), x.stride(1), rotation.cos.stride(0), rotation.sin.stride(0), keys.stride(0),
        keys.stride(1), keys.stride(2), values.stride(0), values.stride(1), values.stride(2), eps,
        **launch(
            1, QUERIES=queries, GROUPS=keys.shape[1], DIM=dim, BLOCK=triton.next_power_of_2(dim // 2), PAGE=PAGE,
            NORMED=head_norms is not None, SCALED=rotation.scale is not None,
        ),
    )  # fmt: skip


def _check(
    x: Tensor,
    queries: int,
    head_norms: tuple[Tensor, Tensor] | None,
    rotation: Rotation,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
) -> None:
    groups, dim = keys.shape[1], x.shape[-1]
    check_tensor("x", x, (None, queries + 2 * groups, None), _DTYPES)
    check_tensor("keys", keys, (None, groups, dim, PAGE), (x.dtype,))
    check_tensor("values", values, (keys.shape[0], groups, PAGE, dim), (x.dtype,))
    if dim % 2:
        raise TensorRefused(f"heads have {dim} dimensions; a rotation takes an even number")
    cos, sin, scale, slot = rotation.cos, rotation.sin, rotation.scale, layout.slot
    for name, turn in (("cos", cos), ("sin", sin)):
        check_tensor(name, turn, (x.shape[0], dim), _DTYPES)
    if scale is not None:
        check_tensor("scale", scale, (x.shape[0],), (torch.float32,))
    check_tensor("slot", slot, (x.shape[0],), (torch.int64,))
    q_norm, k_norm = head_norms or (None, None)
    for name, norm in (("query norm", q_norm), ("key norm", k_norm)):
        if norm is not None:
            check_tensor(name, norm, (dim,), _DTYPES)
    check_same_device(
        x, keys=keys, values=values, cos=cos, sin=sin, scale=scale, slot=slot, q_norm=q_norm, k_norm=k_norm
    )


@jit("scales", "slots")
def _place(
    x: typing.Any, q_norm: typing.Any, k_norm: typing.Any, cos: typing.Any, sin: typing.Any, scales: typing.Any,
    slots: typing.Any, keys: typing.Any, values: typing.Any, x_row: typing.Any, x_head: typing.Any, cos_row: typing.Any,
    sin_row: typing.Any, k_page: typing.Any, k_head: typing.Any, k_dim: typing.Any, v_page: typing.Any,
    v_head: typing.Any, v_key: typing.Any, eps: typing.Any, QUERIES: tl.constexpr, GROUPS: tl.constexpr,
    DIM: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, NORMED: tl.constexpr, SCALED: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row, head). A head is loaded as its two halves, which the rotation combines."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    low, high = tl.arange(0, BLOCK), DIM // 2 + tl.arange(0, BLOCK)
    inside = low < DIM // 2
    here = x + row * x_row + head * x_head
    first = tl.load(here + low, mask=inside, other=0).to(tl.float32)
    second = tl.load(here + high, mask=inside, other=0).to(tl.float32)
    if head < QUERIES + GROUPS:
        if NORMED:
            square = tl.sum(first * first) + tl.sum(second * second)
            root = tl.rsqrt(square / DIM + eps)
            norm = q_norm if head < QUERIES else k_norm
            first *= root * tl.load(norm + low, mask=inside, other=0).to(tl.float32)
            second *= root * tl.load(norm + high, mask=inside, other=0).to(tl.float32)
        turn, side = cos + row * cos_row, sin + row * sin_row
        turned = first * tl.load(turn + low, mask=inside, other=0).to(tl.float32)
        turned -= second * tl.load(side + low, mask=inside, other=0).to(tl.float32)
        second = second * tl.load(turn + high, mask=inside, other=0).to(tl.float32)
        second += first * tl.load(side + high, mask=inside, other=0).to(tl.float32)
        first = turned
        if SCALED and head < QUERIES:
            scale = rounded(tl.load(scales + row), x.dtype.element_ty).to(tl.float32)
            first, second = first * scale, second * scale
        tl.store(here + low, rounded(first, x.dtype.element_ty), mask=inside)
        tl.store(here + high, rounded(second, x.dtype.element_ty), mask=inside)
    slot = tl.load(slots + row)
    if (slot >= 0) & (head >= QUERIES):
        page, offset = slot // PAGE, slot % PAGE
        if head < QUERIES + GROUPS:
            there, step = keys + page * k_page + (head - QUERIES) * k_head + offset, k_dim
        else:
            there, step = values + page * v_page + (head - QUERIES - GROUPS) * v_head + offset * v_key, 1
        tl.store(there + low * step, rounded(first, x.dtype.element_ty), mask=inside)
        tl.store(there + high * step, rounded(second, x.dtype.element_ty), mask=inside)
