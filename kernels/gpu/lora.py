"""A product with a low-rank term for marked rows, in Triton: the draft adapter, which other rows never see.

Knows matrices and flags. It takes one launch more than the product: x A^T for tiles with a marked row, whose parts the
product's first programs add up and multiply by B; `swiglu.gated` takes the term in the same way. The adapter's scale is
in B. Rows without a mark keep their bits, whatever other rows do; flags are read on the device, so one captured graph
serves drafts and verification.
"""

from __future__ import annotations

from torch import Tensor

from ..layout import LowRank
from ..quantize import Quantized
from . import linear as triton_linear
from .linear import Delta


def adapted_linear(
    x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor, onto: Tensor | None = None
) -> Tensor:
    """Returns `linear`, plus (x A^T) B^T for rows with a flag: adapter A [R, in] and B [out, R], flags [T], 0 for no.

    x A^T is rounded to x's dtype. Raises TensorRefused.
    """
    return triton_linear.linear(x, weight, onto, delta(x, adapter, flags))


def adapted_parts(x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor) -> Tensor:
    """Returns `adapted_linear` before its last sum: [split, T, out] fp32. Raises TensorRefused."""
    return triton_linear.parts(x, weight, delta=delta(x, adapter, flags))


def delta_of(x: Tensor, terms: tuple[LowRank, ...], flags: Tensor | None) -> Delta | None:
    """Computes the term of a product as `block.joined_terms` made it; None if there is none. flags [T, 1]."""
    if not terms or flags is None:
        return None
    return delta(x, (terms[0].low, terms[0].high), flags[:, 0])


def delta(x: Tensor, adapter: tuple[Tensor, Tensor], flags: Tensor) -> Delta:
    """Computes the low-rank term of marked rows of x. Raises TensorRefused."""
    return Delta(flags, triton_linear.parts(x, adapter[0], flags), adapter[1])
