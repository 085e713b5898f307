"""Matrices in the form that products.h multiplies: strips of neighbouring outputs, in the numbers they are stored in.

Knows tensors and the kinds of formats.h. What a product computes does not depend on the kind: bf16 numbers and blocks
expand to the weights that they stand for, to the last bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .. import threads
from ..blocks import Blocks, Form

FLOATS, PAIRS, PAIRS_HALVES = 0, 1, 2
BLOCKS: Final[dict[Form, int]] = {"Q8_0": 3, "Q4_0": 4, "Q4_1": 5}
INTEGERS: Final[dict[Form, int]] = {"Q8_0": 6, "Q4_0": 7, "Q4_1": 8}
"""The numbers of `Kind` in formats.h; these two for rows in fp32 and for rows in int8."""
NAMES: Final = {
    FLOATS: "F32", PAIRS: "BF16", PAIRS_HALVES: "BF16",
    **{kind: form for kinds in (BLOCKS, INTEGERS) for form, kind in kinds.items()},
}  # fmt: skip
"""How weights of each kind are stored, for people."""
NO_OTHERS: Final[Mapping[int, int]] = {}
_WEIGHTS: Final = 1 << 21
"""Weights that are packed at a time, so that memory never has a second matrix in fp32."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed matrix [out, in]: data uint8, whose layout is that of `kind` in formats.h."""

    data: Tensor
    kind: int
    inputs: int
    outputs: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.outputs, self.inputs))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def form(self) -> str:
        """How the weights are stored: F32, BF16, or as ggml's blocks are named."""
        return NAMES[self.kind]


class Packer:
    """Packs matrices by the compiled library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._strip: int = library.strip_width()
        library.packed_bytes.restype = ctypes.c_int64
        library.digest.restype = ctypes.c_uint64

    def digest(self, data: Tensor) -> int:
        """Returns 64 bits that change with any bit of `data`."""
        return int(self._library.digest(data.data_ptr(), data.nbytes))

    def packed(self, weight: Tensor | Blocks, instead: Mapping[int, int] = NO_OTHERS) -> Packed:
        """Packs a matrix [out, in] as it is stored: blocks as blocks, numbers as bf16 if every one of them is one.

        `instead`: kinds to pack as another kind of the same numbers.
        """
        outputs, inputs = weight.shape
        if isinstance(weight, Blocks):
            kind = BLOCKS[weight.form]
            return self._made(instead.get(kind, kind), outputs, inputs, self._chunks(weight.data))
        if all(_is_bf16(rows) for rows in self._chunks(weight)):
            halves = (rows.to(torch.bfloat16) for rows in self._chunks(weight))
            return self._made(instead.get(PAIRS, PAIRS), outputs, inputs, halves)
        return self._made(FLOATS, outputs, inputs, (rows.float() for rows in self._chunks(weight)))

    def _chunks(self, weight: Tensor) -> Iterator[Tensor]:
        """Yields the rows in parts of whole strips."""
        strips = max(1, _WEIGHTS // max(1, weight.shape[1] * self._strip))
        yield from weight.split(strips * self._strip)

    def _made(self, kind: int, outputs: int, inputs: int, chunks: Iterator[Tensor]) -> Packed:
        data = torch.empty(self._library.packed_bytes(kind, inputs, outputs), dtype=torch.uint8)
        at = 0
        for rows in chunks:
            part = rows.contiguous()
            self._library.pack(
                part.data_ptr(), part.shape[0], inputs, kind, data.data_ptr() + at, threads.count()
            )  # fmt: skip
            at += self._library.packed_bytes(kind, inputs, part.shape[0])
        return Packed(data, kind, inputs, outputs)


def _is_bf16(rows: Tensor) -> bool:
    return rows.dtype == torch.bfloat16 or torch.equal(rows.to(torch.bfloat16).float(), rows.float())
