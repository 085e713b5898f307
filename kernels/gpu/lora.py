"""A product whose marked rows also get a low-rank term, in Triton: the draft adapter, which other rows never see.

Knows matrices and flags. One launch more than the product alone: x A^T for tiles that hold a marked row, whose parts
the product's first programs add up and multiply by B. The adapter's scale is in B. Rows without a mark keep their bits,
whatever rides along; and flags are read on the device, so one captured graph serves drafts and verification.
"""

from __future__ import annotations

from torch import Tensor

from ..quantize import Quantized
from . import linear as triton_linear
from .linear import Delta


def adapted_linear(
    x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor, onto: Tensor | None = None
) -> Tensor:
    """`linear`, plus (x A^T) B^T for rows with a flag: adapter A [R, in] and B [out, R], flags [T], 0 for no.

    x A^T is rounded to x's dtype. Raises TensorRefused.
    """
    return triton_linear.linear(x, weight, onto, delta(x, adapter, flags))


def adapted_parts(x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor) -> Tensor:
    """`adapted_linear` before its last sum: [split, T, out] fp32. Raises TensorRefused."""
    return triton_linear.parts(x, weight, delta=delta(x, adapter, flags))


def delta(x: Tensor, adapter: tuple[Tensor, Tensor], flags: Tensor) -> Delta:
    """What marked rows of x get on top. Raises TensorRefused."""
    return Delta(flags, triton_linear.parts(x, adapter[0], flags), adapter[1])
