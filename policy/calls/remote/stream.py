"""Events of a stream whose pieces come as text.

Knows text updates. Does not know tokens or HTTP. The server has cut the text at stop strings, so nothing is withheld.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimode.engine.jobs import Update
from trimode.engine.result import Section

from ...remote import TextUpdate
from ...turns import CallDelta
from ..result import Result
from ..stream import IncrementalDetokenizer, StreamEvent


@dataclass(slots=True)
class TextStream(IncrementalDetokenizer):
    """Turns text updates into events. `ids`: yields an id for each tool call; None where the call is no turn."""

    ids: Iterator[str] | None = None
    kind: str = "prose"
    _calls: tuple[tuple[str, int], ...] = ()

    def feed(self, update: Update) -> Iterator[StreamEvent]:
        """Yields what is new in the text, then what is new in each call."""
        assert isinstance(update, TextUpdate)
        if new := update.text[len(self.sent) :]:
            self.sent: str = update.text
            yield StreamEvent(text=new, segment=None if self.ids is None else Section(0, self.kind))
        yield from () if self.ids is None else self._call_events(update, self.ids)

    def last(self, result: Result) -> Iterator[StreamEvent]:
        """Yields the rest and the result. The text of calls is in their events, so a turn's last event has none."""
        rest = "" if self.ids is not None else result.text[len(self.sent) :]
        yield StreamEvent(text=rest, result=result)

    def _call_events(self, update: TextUpdate, ids: Iterator[str]) -> Iterator[StreamEvent]:
        for index, call in enumerate(update.calls):
            name: str | None = None
            if index == len(self._calls):
                name, self._calls = call.name, (*self._calls, (next(ids), 0))
            known, sent = self._calls[index]
            if name is not None or len(call.arguments) > sent:
                delta = CallDelta(index=index, id=known, name=name, arguments=call.arguments[sent:])
                yield StreamEvent(text="", segment=Section(1, "tool_call"), call=delta)
                done = (known, len(call.arguments))
                self._calls = (*self._calls[:index], done, *self._calls[index + 1 :])
