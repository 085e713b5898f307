"""Weights in eight or four bits: in the form that an implementation multiplies, from which the matrix is restored.

Knows matrices only. Native kernels multiply blocks of 32 inputs (`blocks`), for int8 Q8_0 and for int4 Q4_1. The others
have for int8 and fp8 values and one fp32 scale per output: symmetric, a scale is the row's largest magnitude over the
largest value of the format, so no weight is clipped and zero stays zero. Eight-bit values are exact in bf16: the only
error is the rounding done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from .blocks import Blocks, Form, from_blocks, to_blocks

Precision = Literal["int8", "int4", "fp8"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
BLOCK_FORMS: Final[dict[Precision, Form]] = {"int8": "Q8_0", "int4": "Q4_1"}
"""The blocks of a precision."""
_FORMATS: Final[dict[Precision, tuple[torch.dtype, float]]] = {
    "int8": (torch.int8, 127.0),
    "fp8": (torch.float8_e4m3fn, 448.0),
}
"""dtype and largest value used; -128 has no positive counterpart and stays unused."""
BY_OUTPUT: Final[tuple[Precision, ...]] = tuple(_FORMATS)
"""Precisions with one scale for each output, which GPU kernels multiply."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantised matrix: values [out, in] int8 or float8_e4m3fn, scales [out] fp32."""

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


def rounded(weight: Tensor, precision: Precision, in_blocks: bool) -> Quantized | Blocks:
    """Rounds weight [out, in] to `precision`: in blocks, for kernels that multiply them and for int4 always, or by
    output. Raises ValueError: not finite."""
    if precision in BLOCK_FORMS and (in_blocks or precision not in _FORMATS):
        return to_blocks(weight, BLOCK_FORMS[precision])
    return quantize(weight, precision)


def quantize(weight: Tensor, precision: Precision) -> Quantized:
    """Rounds weight [out, in] to the nearest value of an eight-bit format. Raises ValueError: unknown format, not
    finite."""
    if precision not in _FORMATS:
        raise ValueError(f"weights cannot be kept as {precision!r}; the formats are {', '.join(_FORMATS)}")
    dtype, largest = _FORMATS[precision]
    wide = weight.float()
    scales = wide.abs().amax(dim=1) / largest
    if not scales.isfinite().all():
        raise ValueError(f"a matrix of shape {list(weight.shape)} has weights that are not finite; it has no scale")
    # A row of zeros, or one whose scale underflows fp32, is kept as zeros.
    scaled = wide / torch.where(scales > 0, scales, 1.0)[:, None]
    values = scaled.round() if precision == "int8" else scaled
    return Quantized(values.clamp(-largest, largest).to(dtype).contiguous(), scales)


def dequantize(weight: Quantized | Blocks, dtype: torch.dtype) -> Tensor:
    """Returns the matrix [out, in] that `weight` represents, rounded to `dtype`."""
    if isinstance(weight, Blocks):
        return from_blocks(weight).to(weight.data.device, dtype)
    return (weight.values.float() * weight.scales[:, None]).to(dtype)
