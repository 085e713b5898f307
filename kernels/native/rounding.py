"""The native kernels with rounded rows: to bf16 for weights that are bf16 numbers, to int8 for weights in blocks.

Knows matrices, and what the processor can do. Rows are rounded on their way into a product, each by its own numbers, so
they are invariant to the batch here too, but they are not the rows of the fp32 kernels. Only the products of a model's
own matrices differ from `native`; adapters do not, because they are stored in fp32 and are too small to gain. A model
with weights in blocks may have whole ones too, as a head that is not quantised: their rows are not rounded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ..blocks import Blocks
from .bindings import library
from .build import NativeUnavailable, processor
from .native_ops import Native
from .packed import BLOCKS, INTEGERS, PAIRS, PAIRS_HALVES, Packed


@dataclass(frozen=True, slots=True)
class Rounding:
    """How rows are rounded. `kinds`: of matrices, and what they are packed as; `others`: whether there may be more.

    `features`: names in /proc/cpuinfo, any of which will do; `function`: of the library, whether the compiler made the
    instruction, which `compilers` do.
    """

    kinds: Mapping[int, int]
    others: bool
    features: tuple[str, ...]
    function: str
    compilers: str


ROUNDINGS: Final[Mapping[str, Rounding]] = {
    "native-bf16": Rounding(
        {PAIRS: PAIRS_HALVES}, False, ("avx512_bf16",), "multiplies_bf16", "g++ 10 or clang++ 9"
    ),
    "native-int8": Rounding(
        {kind: INTEGERS[form] for form, kind in BLOCKS.items()}, True, ("avx512_vnni", "avx_vnni"), "multiplies_int8",
        "g++ 11 or clang++ 12",
    ),
}  # fmt: skip
"""By the name of the kernels."""


class NativeRounded(Native):
    """Native ops that round rows, on a processor with an instruction for the products."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._rounding = ROUNDINGS[name]
        super().__init__(library)

    def prepare(self, weight: Tensor | Blocks) -> Packed:
        """Packs a matrix. Raises NativeUnavailable if these kernels would have to round it."""
        packed = self.packer.packed(weight, self._rounding.kinds)
        if packed.kind not in self._rounding.kinds.values() and not self._rounding.others:
            raise NativeUnavailable(
                f"they multiply bf16 numbers, and a matrix of shape {list(weight.shape)} holds others; "
                "'native' keeps them whole"
            )
        return packed

    def check(self, forms: Sequence[str]) -> None:
        """Raises NativeUnavailable if a model whose matrices have these forms of blocks gives no row to round."""
        if self._rounding.others and not forms:
            raise NativeUnavailable(
                "they multiply rows in int8 with weights in blocks, and this model has none; quantize='int8' or "
                "'int4' makes blocks, and GGUF files of type Q8_0, Q4_0 or Q4_1 have them"
            )


def load(name: str) -> NativeRounded:
    """Returns the ops. Raises NativeUnavailable: no compiler, or a processor or compiler without the instructions."""
    rounding = ROUNDINGS[name]
    needed = " or ".join(rounding.features)
    if not set(rounding.features) & set(processor().split()):
        raise NativeUnavailable(f"they need {needed}, which this processor has not; 'native' does without")
    loaded = library()
    if not getattr(loaded, rounding.function)():
        raise NativeUnavailable(
            f"the compiler makes no {needed} for this processor; take {rounding.compilers} or later, or 'native'"
        )
    return NativeRounded(loaded, name)
