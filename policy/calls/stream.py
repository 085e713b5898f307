"""Incremental detokenization: turns updates of token ids into pieces of text that are final or still tentative.

Knows ids, the tokenizer's decoder, stop strings, and sections and markers of turns. Does not know engines or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic

from trimode.engine.jobs import Update
from trimode.engine.result import Section

from ..turns import CallDelta, CallReader, Markers
from .result import Result, T_co

MASKED: Final = "\u2591"
"""Character shown for a slot of a block that is still masked."""
BROKEN: Final = "\ufffd"
"""Character that the decoder emits for an incomplete UTF-8 sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent(Generic[T_co]):
    """A piece of output. The texts of all events that are not provisional, joined, are the result's text.

    `provisional`: the text is a preview of the block being decoded, with `MASKED` for open slots; the next event
    replaces it. `result`: set in the last event only, whose text is what was still withheld. Of a turn, `segment`: the
    number and kind of the segment that the text belongs to, None for a marker between two; `call`: what it adds to a
    tool call.
    """

    text: str
    provisional: bool = False
    segment: Section | None = None
    call: CallDelta | None = None
    result: Result[T_co] | None = None


@dataclass(slots=True)
class IncrementalDetokenizer:
    """Turns updates into events. Withholds incomplete characters and text that may become a stop string.

    `sent`: text of the final events so far.
    """

    decode: Callable[[Sequence[int]], str]
    stop: Sequence[str]
    sent: str = ""
    _previewed: tuple[int | None, ...] = field(default=())

    def feed(self, update: Update) -> Iterator[StreamEvent]:
        """Yields the new final text, then a preview where the tentative tokens have changed."""
        final = self._final(self.decode(update.tokens))
        if len(final) > len(self.sent):
            yield from self._events(final)
            self.sent = final
        if update.tentative and update.tentative != self._previewed:
            yield StreamEvent(text=self._preview(update.tentative), provisional=True)
        self._previewed = update.tentative

    def last(self, result: Result) -> Iterator[StreamEvent]:
        """Yields what was withheld; the last event has the result."""
        yield StreamEvent(text=result.text[len(self.sent) :], result=result)

    def _events(self, final: str) -> Iterator[StreamEvent]:
        """Yields the events of the text that is new in `final`."""
        yield StreamEvent(text=final[len(self.sent) :])

    def _final(self, text: str) -> str:
        """Returns the prefix of `text` that later tokens cannot change, cut before the first stop string."""
        text = text.rstrip(BROKEN)
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        withheld = max((overlap(text, stop) for stop in self.stop), default=0)
        return text[: min(found)] if found else text[: len(text) - withheld]

    def _preview(self, slots: Sequence[int | None]) -> str:
        """Returns runs of filled slots as text and each masked slot as `MASKED`."""
        text, run = "", list[int]()
        for slot in [*slots, None]:
            if slot is not None:
                run.append(slot)
                continue
            text += self.decode(run) + MASKED
            run = []
        return text[: -len(MASKED)]


@dataclass(slots=True)
class TurnDetokenizer(IncrementalDetokenizer):
    """Turns updates of a turn into events. Of prose it also withholds what may become the marker of a call."""

    markers: Markers = field(kw_only=True)
    calls: CallReader = field(kw_only=True)
    _sections: Sequence[tuple[Section, int]] = ()
    _tokens: Sequence[int] = ()

    def feed(self, update: Update) -> Iterator[StreamEvent]:
        self._sections, self._tokens = update.sections, update.tokens
        yield from IncrementalDetokenizer.feed(self, update)

    def last(self, result: Result) -> Iterator[StreamEvent]:
        self._tokens = result.token_ids
        yield from self._events(result.text)
        yield StreamEvent(text="", result=result)

    def _final(self, text: str) -> str:
        text = text.rstrip(BROKEN)
        section, start = self._sections[-1]
        if section.kind != "prose":
            return text
        begin = len(self.decode(self._tokens[:start]))
        said = text[begin:]
        found = [at for stop in self.stop if (at := said.find(stop)) >= 0]
        if found:
            return text[: begin + min(found)]
        return text[: len(text) - self._withheld(said)]

    def _withheld(self, said: str) -> int:
        """Returns the length of the end of `said` that may become a stop string or the marker of a call, or is one."""
        marker = self.markers.call.text
        if marker and said.endswith(marker):
            return len(marker)
        return max((overlap(said, one) for one in (*self.stop, marker) if one), default=0)

    def _events(self, final: str) -> Iterator[StreamEvent]:
        """Yields the events of the text that is new in `final`, one segment or call each."""
        for span in self.markers.spans(self._tokens, self._sections, len(final)):
            text = final[max(span.begin, len(self.sent)) : span.end]
            if not text:
                continue
            calls = span.section is not None and span.section.kind == "tool_call"
            deltas: list[CallDelta | None] = [*self.calls.feed(text)] if calls else []
            for number, delta in enumerate(deltas or [None]):
                yield StreamEvent(text="" if number else text, segment=span.section, call=delta)


def overlap(text: str, stop: str) -> int:
    """Returns the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
