"""Weights in blocks of 32 inputs with a scale, as ggml stores them: read, made of whole weights, and made whole again.

Knows bytes and numbers. Does not know files. Forms: Q8_0 (an fp16 scale and 32 bytes: a weight is scale * byte), Q4_0
(a scale and 32 times four bits: scale * (bits - 8)), Q4_1 (a scale, an fp16 minimum and 32 times four bits: scale *
bits + minimum). Every product of a scale and such an integer is exact in fp32, so whole weights have the same bits
whoever computes them. The last block of a row whose inputs are no multiple of 32 is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["Q8_0", "Q4_0", "Q4_1"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
INPUTS: Final = 32
"""Inputs of a block."""
BYTES: Final[dict[Form, int]] = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}
"""Bytes of a block."""
_ROWS: Final = 1 << 20
"""Weights that are converted at a time, so that memory never has a second matrix in fp32."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix in blocks: data uint8 [out, ceil(in / 32) * bytes of a block]; `inputs` is in."""

    form: Form
    data: Tensor
    inputs: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.data.shape[0], self.inputs))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def joined_blocks(parts: Sequence[Blocks]) -> Blocks:
    """Returns matrices of one form and the same inputs as one, one below the other."""
    return Blocks(parts[0].form, torch.cat([part.data for part in parts]), parts[0].inputs)


def to_blocks(weight: Tensor, form: Form) -> Blocks:
    """Rounds weight [out, in] as ggml's reference does. Raises ValueError for weights that have no finite scale."""
    outputs, inputs = weight.shape
    count = -(-inputs // INPUTS)
    data = torch.empty(outputs, count * BYTES[form], dtype=torch.uint8)
    step = max(1, _ROWS // max(inputs, 1))
    for first in range(0, outputs, step):
        rows = F.pad(weight[first : first + step].float(), (0, count * INPUTS - inputs)).view(-1, count, INPUTS)
        data[first : first + step] = _rounded(rows, form).flatten(1)
    made = Blocks(form, data, inputs)
    if not finite(made):
        raise ValueError(
            f"a matrix of shape {[outputs, inputs]} has weights that are not finite or too large for a scale in fp16"
        )
    return made


def from_blocks(blocks: Blocks) -> Tensor:
    """Returns the whole matrix [out, in] in fp32."""
    rows = _split(blocks)
    scale, rest = _half(rows[..., :2]), rows[..., 2:]
    if blocks.form == "Q8_0":
        whole = scale * rest.view(torch.int8).float()
    elif blocks.form == "Q4_0":
        whole = scale * (_nibbles(rest) - 8)
    else:
        whole = scale * _nibbles(rest[..., 2:]) + _half(rest[..., :2])
    return whole.flatten(1)[:, : blocks.inputs].contiguous()


def finite(blocks: Blocks) -> bool:
    """Returns whether all weights are finite, which their scales and minima decide."""
    rows = _split(blocks)
    heads = rows[..., : 4 if blocks.form == "Q4_1" else 2]
    return bool(heads.contiguous().view(torch.float16).isfinite().all())


def _split(blocks: Blocks) -> Tensor:
    """Returns the bytes [out, blocks, bytes of a block]."""
    return blocks.data.view(blocks.data.shape[0], -1, BYTES[blocks.form])


def _half(pair: Tensor) -> Tensor:
    return pair.contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Returns the 32 numbers of 16 bytes: the lower four bits of all, then the upper ones."""
    return torch.cat((packed & 15, packed >> 4), -1).float()


def _rounded(rows: Tensor, form: Form) -> Tensor:
    """Returns the bytes [out, blocks, bytes of a block] of rows [out, blocks, 32]."""
    if form == "Q8_0":
        scale = rows.abs().amax(-1, keepdim=True) / 127
        scaled = rows * _inverse(scale)
        q = torch.where(scaled < 0, -(-scaled + 0.5).floor(), (scaled + 0.5).floor())  # halves away from zero
        return torch.cat((_bytes(scale), q.to(torch.int8).view(torch.uint8)), -1)
    if form == "Q4_0":
        extreme = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
        scale = extreme / -8
        return torch.cat((_bytes(scale), _packed(rows * _inverse(scale) + 8.5)), -1)
    least, most = rows.aminmax(dim=-1, keepdim=True)
    scale = (most - least) / 15
    return torch.cat((_bytes(scale), _bytes(least), _packed((rows - least) * _inverse(scale) + 0.5)), -1)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _bytes(number: Tensor) -> Tensor:
    return number.to(torch.float16).view(torch.uint8)


def _packed(numbers: Tensor) -> Tensor:
    q = numbers.clamp(0, 15).to(torch.uint8)
    return q[..., :16] | q[..., 16:] << 4
