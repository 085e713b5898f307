"""What all Triton kernels share: one product, one rounding, the options of a launch. Knows triton only.

Under TRITON_INTERPRET=1 kernels run in numpy, which has no bf16: the interpreter multiplies its bit patterns as
integers and truncates where hardware rounds. Arithmetic is therefore in fp32 throughout, and the two places where
formats meet have a version for each. Triton reads that variable when it is first imported.
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
"""Launch options: a product and a sum stay two roundings, so that results do not depend on a tile's compiled code."""


def launch(warps: typing.Any, stages: int = 3, **sizes: typing.Any) -> dict[str, typing.Any]:
    """Returns the options and constants of a launch; `sizes`: the kernel's constants."""
    return {"num_warps": warps, "num_stages": stages, **OPTIONS, **sizes}


def jit(*numbers: str, counts: Sequence[str] = ()) -> typing.Any:
    """Wraps `triton.jit` for kernels that read `numbers`, columns of a pass, and `counts`, scalars that vary with rows.

    Neither is specialised: a column begins wherever the one before it ends, and one binary serves all addresses and
    counts. So nothing is compiled while serving, and a row runs through the same code whatever else is in the batch.
    """
    return triton.jit(do_not_specialize=list(counts), do_not_specialize_on_alignment=list(numbers))


@triton.jit
def product(a: typing.Any, b: typing.Any, total: typing.Any) -> typing.Any:
    """Returns total [M, N] fp32 plus a [M, K] times b [K, N].

    `a` may be in eight bits; it is multiplied as b's dtype.
    """
    if INTERPRETED:
        # In order of K, because numpy's own product sums in an order that depends on the shape.
        total += tl.sum(a.to(tl.float32)[:, :, None] * b.to(tl.float32)[None, :, :], axis=1)
    else:
        total = tl.dot(a.to(b.dtype), b, total, input_precision="ieee")
    return total


@triton.jit
def rounded(x: typing.Any, dtype: tl.constexpr) -> typing.Any:
    """Rounds x fp32 to `dtype`, to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        result = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = x.to(dtype)
    return result
