"""The segments of a turn: its tokens and its text in parts of one kind each, with the calls that were made.

Knows sections of an output, their tokens, and the marker that opens a call. Does not know how they were decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from string import ascii_letters, digits
from typing import Any, Final

from trimode.engine.result import DecodeResult, Mode, Section

from ..grammar import Marker
from ..schema import IdentifiedCall, SegmentKind, TurnTarget
from ..selection import DecodePlan

Decode = Callable[[Sequence[int]], str]
_ID_CHARACTERS: Final = digits + ascii_letters
ID_LENGTH: Final = 9
"""Characters of a call's id; some chat templates accept no other length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSegment:
    """One part of a turn. `start`, `end`: its tokens, as a slice of `token_ids`; `modes`: those that decoded it.

    `reason`: why its mode was chosen. `text`: without the marker that ends thinking or opens a call, whose tokens are
    the last of the segment before. `calls`: of a segment of calls.
    """

    number: int
    kind: SegmentKind
    text: str
    start: int
    end: int
    modes: tuple[Mode, ...]
    reason: str
    calls: tuple[IdentifiedCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A range of the text: of a section, or (None) of the marker between two."""

    section: Section | None
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Markers:
    """Texts that end a section: `thinking` the thinking, `call` the prose before a call. `decode`: ids to text."""

    call: Marker
    thinking: str
    decode: Decode

    def spans(self, tokens: Sequence[int], starts: Sequence[tuple[Section, int]], length: int) -> Iterator[Span]:
        """Yields the spans of the first `length` characters of the text of `tokens`, in order.

        `starts`: sections with the number of tokens before each.
        """
        texts = [self.decode(tokens[:start]) for _, start in starts]
        ends = [*map(len, texts[1:]), length]
        for at, ((section, _), text, end) in enumerate(zip(starts, texts, ends, strict=True)):
            begin, end = min(len(text), length), min(end, length)
            closed = texts[at + 1][begin:] if at + 1 < len(starts) else None
            cut = end if closed is None else min(begin + self._end(section.kind, closed), end)
            yield Span(section, begin, cut)
            if cut < end:
                yield Span(None, cut, end)

    def _end(self, kind: str, text: str) -> int:
        """Returns the length of a finished section without the marker that ended it."""
        if kind == "thinking":
            return len(text.removesuffix(self.thinking))
        return self.call.closing(text) if kind == "prose" else len(text)


def segments_of(
    found: DecodeResult,
    target: TurnTarget,
    markers: Markers,
    plans: Mapping[SegmentKind, DecodePlan],
    new_id: Callable[[], str],
) -> Iterator[TurnSegment]:
    """Yields the segments of a finished turn that have any text. `new_id`: returns an id for each call.

    Raises SchemaViolation where a validator refuses a call.
    """
    grouped = [(section, [*rounds]) for section, rounds in groupby(found.rounds, key=lambda one: one.section)]
    sections = {section: rounds for section, rounds in grouped if section is not None}
    lengths = [sum(len(one.tokens) for one in rounds) for rounds in sections.values()]
    starts = dict(zip(sections, accumulate(lengths, initial=0), strict=False))
    for span in markers.spans(found.token_ids, [*starts.items()], len(found.text)):
        section, text = span.section, found.text[span.begin : span.end]
        if section is None or not text:
            continue
        kind: Any = section.kind
        calls = target.calls_in(text) if kind == "tool_call" else ()
        start = starts[section]
        yield TurnSegment(
            number=section.number,
            kind=kind,
            text=text,
            start=start,
            end=start + sum(len(one.tokens) for one in sections[section]),
            modes=tuple(dict.fromkeys(one.mode for one in sections[section] if one.mode != "choice")),
            reason=plans[kind].reason,
            calls=tuple(IdentifiedCall(id=new_id(), name=one.name, arguments=one.arguments) for one in calls),
        )


def call_ids(call: str, taken: Collection[str]) -> Iterator[str]:
    """Yields ids for the tool calls of one call of the engine, none of them in `taken`, in the same order every time.

    `call`: the id of its record.
    """
    number = 0
    while True:
        digest = int.from_bytes(hashlib.sha256(f"{call} {number}".encode()).digest())
        characters = list[str]()
        for _ in range(ID_LENGTH):
            digest, at = divmod(digest, len(_ID_CHARACTERS))
            characters.append(_ID_CHARACTERS[at])
        if (found := "".join(characters)) not in taken:
            yield found
        number += 1


def part_of(found: DecodeResult, kind: str) -> DecodeResult | None:
    """Returns what was decoded in segments of one kind, as a result of its own; None if there was nothing.

    `seconds` are those of its passes, and `token_ids` leaves out what is between its segments.
    """
    rounds = tuple(one for one in found.rounds if one.section is not None and one.section.kind == kind)
    if not rounds:
        return None
    origins, runs = "".join(one.origins for one in rounds), found.stats.mode_runs
    runs = tuple(run for run in runs if run.section == kind)
    seconds = sum(run.seconds for run in runs)
    first = rounds[0] is found.rounds[0]
    stats = replace(
        found.stats,
        output_tokens=len(origins),
        prefill_passes=found.stats.prefill_passes if first else 0,
        prefill_seconds=found.stats.prefill_seconds if first else 0.0,
        forward_passes=sum(one.forward_passes for one in rounds),
        drafted=sum(one.drafted for one in rounds),
        accepted=origins.count("a"),
        corrected=origins.count("c") + origins.count("r"),
        forced=origins.count("f") + origins.count("b"),
        repaired=origins.count("r"),
        seconds=seconds + (found.stats.prefill_seconds if first else 0.0),
        query_tokens=sum(run.rows for run in runs),
        mode_runs=runs,
    )
    tokens = tuple(token for one in rounds for token in one.tokens)
    return replace(found, token_ids=tokens, rounds=rounds, stats=stats)
