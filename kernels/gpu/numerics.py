"""What all Triton kernels here share: one product, one rounding, the options of a launch.

Under TRITON_INTERPRET=1 kernels run in numpy, which has no bf16: the interpreter multiplies its bit patterns as
integers and cuts where hardware rounds. So arithmetic is done in fp32 throughout, and the two places where formats meet
are written twice, once for each. That variable is read when triton is first imported.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Final

import triton
import triton.language as tl
from triton import knobs

INTERPRETED: Final = tl.constexpr(bool(knobs.runtime.interpret))
OPTIONS: Final[dict[str, typing.Any]] = {"enable_fp_fusion": False}
"""A product and a sum stay two roundings, so that a compiler's choice for one tile shape changes no result."""


def launch(warps: int, stages: int = 3, **sizes: int) -> dict[str, typing.Any]:
    """What a launch is given besides its arguments; `sizes`: the kernel's constants."""
    return {"num_warps": warps, "num_stages": stages, **OPTIONS, **sizes}


def jit(*numbers: str, counts: Sequence[str] = ()) -> typing.Any:
    """`triton.jit` for kernels that read `numbers`, columns of a pass, and `counts`, scalars that follow its rows.

    A column lies wherever the rows before it end, so one binary serves all places of it, and all counts: nothing is
    compiled amid serving, and no row runs through other code than the same row in other company.
    """
    return triton.jit(do_not_specialize=list(counts), do_not_specialize_on_alignment=list(numbers))


@triton.jit
def product(a: typing.Any, b: typing.Any, total: typing.Any) -> typing.Any:
    """a [N, K] times b [K, M], added to total [N, M] fp32. `a` may be in eight bits; it is multiplied as b's dtype."""
    if INTERPRETED:
        # In order of K: numpy's own product sums in an order that follows the shape.
        total += tl.sum(a.to(tl.float32)[:, :, None] * b.to(tl.float32)[None, :, :], axis=1)
    else:
        total = tl.dot(a.to(b.dtype), b, total, input_precision="ieee")
    return total


@triton.jit
def rounded(x: typing.Any, dtype: tl.constexpr) -> typing.Any:
    """x fp32 as `dtype`, to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        result = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = x.to(dtype)
    return result
