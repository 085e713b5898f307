"""The tokens of a pass, for all requests at once: one small copy to the device, one head epilogue, one copy back.

Knows choices and rows of logits. The copy back is the only place where decoding waits for the device.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any

import torch
from torch import Tensor

from .checks import TensorRefused
from .layout import Choice, Draw, Picks
from .transfer import integers, sent
from .triton_head import Draws, sample

_ALIGNED = 4
"""Columns are as long as a multiple of it, so that each begins at a multiple of 16 bytes."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Tokens that the device is about to choose: `counts` of them a choice, in `tokens` [R] int64 and all in `room`."""

    room: Tensor
    tokens: Tensor
    counts: list[int]


def begin(logits: Tensor, choices: Sequence[Choice]) -> Begun:
    """Queues the tokens of each choice from logits [R, V]: those of `reference.choose`. Raises TensorRefused."""
    counts = [len(choice.positions) for choice in choices]
    rows = sum(counts)
    room = torch.empty(_bytes(rows), dtype=torch.uint8, device=logits.device)
    tokens, confidence = _parts(room, rows)
    if rows:
        if any(choice.banned is not choices[0].banned for choice in choices):
            raise TensorRefused("choices of one pass have several `banned`; give them the same tensor")
        draws, masks = drawn(choices, logits.device)
        sample(_wanted(logits, choices), choices[0].banned, masks, draws, (tokens, confidence))
    return Begun(room, tokens, counts)


def read(begun: Sequence[Begun]) -> list[list[Picks]]:
    """What each has chosen, by one copy, which waits for the device."""
    rooms = [one.room for one in begun]
    here = (rooms[0] if len(rooms) == 1 else torch.cat(rooms)).cpu()
    return [
        list(_dealt(part, one.counts))
        for part, one in zip(here.split([len(room) for room in rooms]), begun, strict=True)
    ]


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[Picks]:
    """The tokens of each choice, read at once."""
    return read([begin(logits, choices)])[0] if choices else []


def _dealt(room: Tensor, counts: Sequence[int]) -> Iterator[Picks]:
    tokens, confidence = (part.tolist() for part in _parts(room, sum(counts)))
    for count, end in zip(counts, accumulate(counts), strict=True):
        yield Picks(tokens[end - count : end], confidence[end - count : end])


def _bytes(rows: int) -> int:
    """Tokens in eight bytes, confidence in four; whole tokens, so that a second room begins where one may."""
    return 8 * rows + 8 * (-(-rows // 2))


def _parts(room: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Tokens [R] int64 and confidence [R] fp32 of a room."""
    if not rows:
        return torch.empty(0, dtype=torch.int64, device=room.device), torch.empty(0, device=room.device)
    return room[: 8 * rows].view(torch.int64), room[8 * rows : 12 * rows].view(torch.float32)


def _wanted(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    """The logits' rows in the order of choices; a view where they lie so."""
    rows = [choice.row + at for choice in choices for at in range(len(choice.positions))]
    first = rows[0]
    if rows == list(range(first, first + len(rows))):
        return logits[first : first + len(rows)]
    return logits[sent(integers(rows), logits.device)]


def drawn(choices: Sequence[Choice], device: torch.device) -> tuple[Draws, Tensor | None]:
    """How each row of `choices` draws, and the grammar masks [M, W] that rows name, or None; both on `device`."""
    rules = list(chain.from_iterable(repeat(choice.draw, len(choice.positions)) for choice in choices))
    named = [choice.masks() or [None] * len(choice.positions) for choice in choices]
    masks = [mask for some in named for mask in some if mask is not None]
    columns: list[tuple[torch.dtype, array[Any]]] = [
        (torch.int64, array("q", [rule.seed - (rule.seed >> 63 << 64) for rule in rules])),
        (torch.int64, array("q", chain.from_iterable(choice.positions for choice in choices))),
        (torch.float32, array("f", [rule.temperature for rule in rules])),
        (torch.int32, array("i", _places(named))),
    ]
    if any(rule.filters for rule in rules):
        columns.append((torch.int32, array("i", [min(rule.top_k, 2**31 - 1) for rule in rules])))
        columns.append((torch.float32, array("f", [_top_p(rule) for rule in rules])))
    seed, position, temperature, place, *filters = _sent(columns, len(rules), device)
    top_k, top_p = filters or (None, None)
    draws = Draws(seed, position, temperature, top_k, top_p, place if masks else None)
    return draws, sent(torch.stack(masks), device) if masks else None


def _top_p(rule: Draw) -> float:
    """As fp32 can say it; what is below 1 stays below 1, because 1 is off."""
    return min(rule.top_p, 1 - 2.0**-24) if rule.top_p < 1 else 1.0


def _places(named: Sequence[Sequence[Tensor | None]]) -> list[int]:
    """Of each row: which mask it has, -1 for none."""
    places, known = list[int](), 0
    for mask in chain.from_iterable(named):
        places.append(-1 if mask is None else known)
        known += mask is not None
    return places


def _sent(columns: Sequence[tuple[torch.dtype, array[Any]]], rows: int, device: torch.device) -> list[Tensor]:
    """Columns of `rows` numbers on `device`, by one copy."""
    padding = bytes(8 * _ALIGNED)
    short = -rows % _ALIGNED
    packed = bytearray(b"".join(part.tobytes() + padding[: short * part.itemsize] for _, part in columns))
    there = sent(torch.frombuffer(packed, dtype=torch.uint8), device)
    sizes = [(rows + short) * part.itemsize for _, part in columns]
    pieces = there.split(sizes)
    return [piece.view(dtype)[:rows] for piece, (dtype, _) in zip(pieces, columns, strict=True)]
