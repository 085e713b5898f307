"""The stream of a turn: pieces of text with their segments, and of tool calls their names and arguments.

Knows sections, markers and the JSON text of calls. Does not know engines or threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from trimode.engine.jobs import Update
from trimode.engine.result import Section

from .result import Result
from .segments import Markers
from .stream import BROKEN, CallDelta, IncrementalDetokenizer, StreamEvent, overlap

_NAME: Final = re.compile(r'\{"name":("(?:[^"\\]|\\.)*"),"arguments":')
"""The text of a call up to its arguments."""


@dataclass(slots=True)
class CallReader:
    """Reads the JSON texts of calls as they grow. `ids`: yields an id for each of them."""

    ids: Iterator[str]
    _index: int = -1
    _id: str = ""
    _head: str | None = None
    _depth: int = 0
    _quoted: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> Iterator[CallDelta]:
        """Yields what `text` adds to calls; text between them adds nothing."""
        arguments = ""
        for character in text:
            if self._head is not None:
                self._head += character
                if found := _NAME.fullmatch(self._head):
                    yield self._opened(json.loads(found[1]))
            elif self._depth and not self._closes(character):
                arguments += character
            elif self._depth == 0 and character == "{":
                if arguments:
                    yield self._delta(arguments)
                arguments, self._head = "", character
        if arguments:
            yield self._delta(arguments)

    def _opened(self, name: str) -> CallDelta:
        self._index, self._id, self._head, self._depth = self._index + 1, next(self.ids), None, 1
        return CallDelta(index=self._index, id=self._id, name=name, arguments="")

    def _delta(self, arguments: str) -> CallDelta:
        return CallDelta(index=self._index, id=self._id, name=None, arguments=arguments)

    def _closes(self, character: str) -> bool:
        """Returns whether `character` ends the call, after counting it."""
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return self._depth == 0


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
        marker = self.markers.call or " "
        withheld = len(marker) if said.endswith(marker) else max(overlap(said, one) for one in (*self.stop, marker))
        return text[: begin + min(found)] if found else text[: len(text) - withheld]

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
