"""The native kernels with products of bf16 numbers: rows are rounded on their way into one, sums are fp32.

Knows matrices, and what the processor can do. Everything but the products of a model's own matrices, adapters among
it, is as in `native`. A row is the same in any company here, too, but not the row of fp32 kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from .bindings import library
from .build import NativeUnavailable, processor
from .native_ops import Native, Packed

FEATURE: Final = "avx512_bf16"
"""What /proc/cpuinfo calls the instructions."""


class NativeBf16(Native):
    """For weights that are bf16 numbers, on a processor that multiplies such."""

    name = "native-bf16"

    def prepare(self, weight: Tensor) -> Packed:
        """Raises NativeUnavailable where a weight would have to be rounded."""
        packed = super().prepare(weight)
        if not packed.kind:
            raise NativeUnavailable(
                f"they multiply bf16 numbers, and a matrix of shape {list(weight.shape)} holds others; "
                "'native' keeps them whole"
            )
        return replace(packed, rounded=True)

    def prepare_adapter(self, weight: Tensor) -> Packed:
        """Whole: adapters are stored as fp32 numbers, and too small to gain."""
        return super().prepare(weight)


def load() -> NativeBf16:
    """Raises NativeUnavailable: no compiler, or no such instructions in the processor or from the compiler."""
    if FEATURE not in processor().split():
        raise NativeUnavailable(f"they need {FEATURE}, which this processor has not; 'native' does without")
    made = library()
    if not made.multiplies_bf16():
        raise NativeUnavailable(
            f"the compiler makes no {FEATURE} for this processor; take g++ 10 or clang++ 9 or later, or 'native'"
        )
    return NativeBf16(made)
