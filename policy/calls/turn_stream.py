"""The stream of a turn: pieces of text with their segments, and what they add to tool calls.

Knows updates, sections and markers. Does not know engines or threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trimode.engine.jobs import Update
from trimode.engine.result import Section

from ..turns import CallDelta, CallReader, Markers
from .result import Result
from .stream import BROKEN, IncrementalDetokenizer, StreamEvent, overlap


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
