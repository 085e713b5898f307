"""The native kernels with products in bf16: rows are rounded on their way into a product, sums are fp32.

Knows matrices, and what the processor can do. Only the products of a model's own matrices differ from `native`;
adapters do not. Rows are invariant to the batch here too, but they are not the rows of the fp32 kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from ..blocks import Blocks
from .bindings import library
from .build import NativeUnavailable, processor
from .native_ops import Native
from .packed import PAIRS, ROUNDED, Packed

FEATURE: Final = "avx512_bf16"
"""Name of the processor feature in /proc/cpuinfo."""


class NativeBf16(Native):
    """Native ops for weights that are bf16 numbers, on a processor with bf16 products.

    Adapters are not rounded, because they are stored in fp32 and are too small to gain.
    """

    name = "native-bf16"

    def prepare(self, weight: Tensor | Blocks) -> Packed:
        """Packs a matrix. Raises NativeUnavailable if a weight would have to be rounded."""
        packed = self.packer.packed(weight)
        if packed.kind != PAIRS:
            raise NativeUnavailable(
                f"they multiply bf16 numbers, and a matrix of shape {list(weight.shape)} holds others; "
                "'native' keeps them whole"
            )
        return replace(packed, kind=ROUNDED)


def load() -> NativeBf16:
    """Returns the ops. Raises NativeUnavailable: no compiler, or a processor or compiler without the instructions."""
    if FEATURE not in processor().split():
        raise NativeUnavailable(f"they need {FEATURE}, which this processor has not; 'native' does without")
    loaded = library()
    if not loaded.multiplies_bf16():
        raise NativeUnavailable(
            f"the compiler makes no {FEATURE} for this processor; take g++ 10 or clang++ 9 or later, or 'native'"
        )
    return NativeBf16(loaded)
