"""Token choice for all requests of a pass at once: one small copy to the device, one head epilogue, one copy back.

Knows choices and rows of logits. The copy back is the only place where decoding waits for the device. `begin` takes
logits at any address; `StaticSampler` works on buffers with fixed addresses, so that a CUDA graph can capture its
launches. One variant of the epilogue serves all rows, because it reads on the device which rows have masks or filters.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any

import torch
from torch import Tensor

from ..checks import TensorRefused
from ..layout import Choice, SampledTokens, SamplingParams
from ..transfer import copy_into, int64_tensor, to_device
from .head_epilogue import RowSampling, sample

_ALIGNED = 4
"""Rows to whose multiple columns are padded, so that each column begins at a multiple of 16 bytes."""
_COLUMNS = (torch.int64, torch.int64, torch.float32, torch.int32, torch.int32, torch.float32)
"""dtypes of the packed sampling parameters: seed, position, temperature, index of the mask, top_k, top_p."""


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """Tokens queued on the device: `counts` of them for each choice, in a result buffer for `rows` rows."""

    result_buffer: Tensor
    rows: int
    counts: list[int]

    @property
    def tokens(self) -> Tensor:
        """[R] int64, on the device."""
        return _parts(self.result_buffer, self.rows)[0][: sum(self.counts)]


class StaticSampler:
    """The head epilogue of up to R rows, for logits [R, V] at a fixed address.

    `load` copies in what a pass asks for, which is all that the host does; `launch` is the part that a graph captures,
    for a given number of rows; `result` copies the tokens out, because the next launch overwrites them.
    """

    def __init__(self, logits: Tensor) -> None:
        (rows, vocab), device = logits.shape, logits.device
        self._logits, self._source = logits, torch.empty(0)
        self._params = torch.zeros(_packed_bytes(rows), dtype=torch.uint8, device=device)
        self._masks = torch.zeros(rows, -(-vocab // 32), dtype=torch.int32, device=device)
        self._banned = torch.zeros(vocab, dtype=torch.bool, device=device)
        self._result = torch.zeros(_bytes(rows), dtype=torch.uint8, device=device)
        self.empty(rows)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self._params, self._masks, self._banned, self._result))

    def empty(self, rows: int) -> None:
        """Resets the sampling parameters: every row takes its best token, without a mask."""
        mask = _row_sampling(self._params.zero_(), rows).mask
        assert mask is not None
        mask.fill_(-1)

    def load(self, choices: Sequence[Choice], rows: int) -> None:
        """Copies in what `choices` ask of the first rows, in order, padded to `rows`.

        Raises TensorRefused.
        """
        if [choice.row for choice in choices] != [0, *accumulate(_counts(choices))][:-1]:
            raise TensorRefused("choices leave rows out, or have another order than these; ask `begin`")
        packed, masks = _packed(choices, rows)
        banned = _banned(choices)
        if banned is not self._source:
            self._banned.copy_(banned)
            self._source = banned
        copy_into(packed, self._params[: len(packed)])
        if masks:
            copy_into(torch.stack(masks), self._masks[: len(masks)])

    def launch(self, rows: int) -> None:
        """Queues the choice of the first `rows` rows' tokens without waiting."""
        _sampled(self._logits[:rows], self._banned, self._masks, _row_sampling(self._params, rows), self._result)

    def result(self, choices: Sequence[Choice], rows: int) -> PendingTokens:
        """Returns a copy of the tokens that the last `launch` of `rows` rows chose for `choices`."""
        return PendingTokens(self._result[: _bytes(rows)].clone(), rows, _counts(choices))


def begin(logits: Tensor, choices: Sequence[Choice]) -> PendingTokens:
    """Queues the tokens of each choice from logits [R, V]: those of `reference.choose`. Raises TensorRefused."""
    counts, device = _counts(choices), logits.device
    rows = sum(counts)
    result_buffer = torch.empty(_bytes(rows), dtype=torch.uint8, device=device)
    if rows:
        packed, masks = _packed(choices, rows)
        # The kernel takes a mask tensor in any case; without masks it is never read.
        unused = torch.empty(1, -(-logits.shape[1] // 32), dtype=torch.int32, device=device)
        allowed = to_device(torch.stack(masks), device) if masks else unused
        params = _row_sampling(to_device(packed, device), rows)
        _sampled(_wanted(logits, choices), _banned(choices), allowed, params, result_buffer)
    return PendingTokens(result_buffer, rows, counts)


def read(pending: Sequence[PendingTokens]) -> list[list[SampledTokens]]:
    """Returns the tokens of each entry by one copy from the device, which is waited for."""
    buffers = [one.result_buffer for one in pending]
    here = (buffers[0] if len(buffers) == 1 else torch.cat(buffers)).cpu()
    return [
        list(_split(part, one.rows, one.counts))
        for part, one in zip(here.split([len(result_buffer) for result_buffer in buffers]), pending, strict=True)
    ]


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[SampledTokens]:
    """Queues the tokens of each choice and reads them at once."""
    return read([begin(logits, choices)])[0] if choices else []


def _split(result_buffer: Tensor, rows: int, counts: Sequence[int]) -> Iterator[SampledTokens]:
    tokens, confidence = (part.tolist() for part in _parts(result_buffer, rows))
    for count, end in zip(counts, accumulate(counts), strict=True):
        yield SampledTokens(tokens[end - count : end], confidence[end - count : end])


def _sampled(logits: Tensor, banned: Tensor, allowed: Tensor, params: RowSampling, result_buffer: Tensor) -> None:
    """Writes tokens and confidence of all rows of `logits` to `result_buffer`."""
    with torch.cuda.device_of(logits):  # Triton launches on the current device, whatever device its tensors are on
        sample(logits, banned, allowed, params, _parts(result_buffer, logits.shape[0]))


def _bytes(rows: int) -> int:
    """Returns the bytes of a result buffer: eight for a token, four for a confidence, padded to a multiple of eight.

    The padding lets the int64 tokens of a buffer follow those of another one in a concatenation.
    """
    return 8 * rows + 8 * (-(-rows // 2))


def _parts(result_buffer: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Returns the tokens [R] int64 and the confidence [R] fp32 of a result buffer, as views."""
    if not rows:
        return torch.empty(0, dtype=torch.int64, device=result_buffer.device), torch.empty(
            0, device=result_buffer.device
        )
    return result_buffer[: 8 * rows].view(torch.int64), result_buffer[8 * rows : 12 * rows].view(torch.float32)


def _wanted(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Returns the logits' rows in the order of choices; a view where they are contiguous."""
    rows = [choice.row + at for choice in choices for at in range(len(choice.positions))]
    first = rows[0]
    if rows == list(range(first, first + len(rows))):
        return logits[first : first + len(rows)]
    return logits[to_device(int64_tensor(rows), logits.device)]


def _packed(choices: Sequence[Choice], rows: int) -> tuple[Tensor, list[Tensor]]:
    """Packs the sampling parameters of `rows` rows in CPU memory; returns the bytes and the masks [W] that they index.

    Rows that no choice covers take their best token.
    """
    rules = list(chain.from_iterable(repeat(choice.sampling, len(choice.positions)) for choice in choices))
    named = [choice.masks or [None] * len(choice.positions) for choice in choices]
    columns: tuple[array[Any], ...] = (
        array("q", [rule.seed - (rule.seed >> 63 << 64) for rule in rules]),
        array("q", chain.from_iterable(choice.positions for choice in choices)),
        array("f", [rule.temperature for rule in rules]),
        array("i", [*_places(named), *[-1] * (rows - len(rules))]),
        array("i", [min(rule.top_k, 2**31 - 1) for rule in rules]),
        array("f", [_top_p(rule) for rule in rules]),
    )
    size = _aligned(rows)
    packed = bytearray(b"".join(part.tobytes() + bytes((size - len(part)) * part.itemsize) for part in columns))
    masks = [mask for some in named for mask in some if mask is not None]
    return torch.frombuffer(packed, dtype=torch.uint8), masks


def _row_sampling(packed: Tensor, rows: int) -> RowSampling:
    """Returns the sampling parameters of `rows` rows as views of what `_packed` has packed."""
    size = _aligned(rows)
    pieces = packed[: _packed_bytes(rows)].split([size * dtype.itemsize for dtype in _COLUMNS])
    views = (piece.view(dtype)[:rows] for piece, dtype in zip(pieces, _COLUMNS, strict=True))
    seed, position, temperature, mask, top_k, top_p = views
    return RowSampling(seed, position, temperature, top_k, top_p, mask)


def _aligned(rows: int) -> int:
    return -(-rows // _ALIGNED) * _ALIGNED


def _packed_bytes(rows: int) -> int:
    return _aligned(rows) * sum(dtype.itemsize for dtype in _COLUMNS)


def _counts(choices: Sequence[Choice]) -> list[int]:
    return [len(choice.positions) for choice in choices]


def _banned(choices: Sequence[Choice]) -> Tensor:
    if any(choice.banned is not choices[0].banned for choice in choices):
        raise TensorRefused("choices of one pass have several `banned`; give them the same tensor")
    return choices[0].banned


def _top_p(rule: SamplingParams) -> float:
    """Returns top_p as fp32; a value below 1 stays below 1, because 1 switches the filter off."""
    return min(rule.top_p, 1 - 2.0**-24) if rule.top_p < 1 else 1.0


def _places(named: Sequence[Sequence[Tensor | None]]) -> list[int]:
    """Returns for each row the index of its mask, -1 for none."""
    places, known = list[int](), 0
    for mask in chain.from_iterable(named):
        places.append(-1 if mask is None else known)
        known += mask is not None
    return places
