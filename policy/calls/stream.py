"""Text as it grows: what is final, what is still tentative, and where a character or a stop string is not whole yet.

Knows ids, the tokenizer's decoder and stop strings. Does not know engines or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic

from trimode.engine.jobs import Update

from .result import Result, T_co

MASKED: Final = "\u2591"
"""Stands for a slot of a block that is still masked."""
_BROKEN: Final = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent(Generic[T_co]):
    """A piece of output. The final pieces' texts, in order, are the result's text.

    `provisional`: the block on its way instead, with `MASKED` for open slots; it may change, and the next event
    replaces it. `result`: with the last event, whose text is what was held back.
    """

    text: str
    provisional: bool = False
    result: Result[T_co] | None = None


@dataclass(slots=True)
class Growing:
    """Turns updates into events. Holds back half a character, and what may become a stop string."""

    decode: Callable[[Sequence[int]], str]
    stop: Sequence[str]
    sent: str = ""
    _shown: tuple[int | None, ...] = field(default=())

    def feed(self, update: Update) -> Iterator[StreamEvent]:
        safe = self._safe(self.decode(update.tokens))
        if len(safe) > len(self.sent):
            yield StreamEvent(text=safe[len(self.sent) :])
            self.sent = safe
        if update.tentative and update.tentative != self._shown:
            yield StreamEvent(text=self._preview(update.tentative), provisional=True)
        self._shown = update.tentative

    def last(self, result: Result) -> StreamEvent:
        return StreamEvent(text=result.text[len(self.sent) :], result=result)

    def _safe(self, text: str) -> str:
        text = text.rstrip(_BROKEN)
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        held = max((_overlap(text, stop) for stop in self.stop), default=0)
        return text[: min(found)] if found else text[: len(text) - held]

    def _preview(self, slots: Sequence[int | None]) -> str:
        """Runs of filled slots as text, masked slots as one sign each."""
        text, run = "", list[int]()
        for slot in [*slots, None]:
            if slot is not None:
                run.append(slot)
                continue
            text += self.decode(run) + MASKED
            run = []
        return text[: -len(MASKED)]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
