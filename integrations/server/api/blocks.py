"""The events of one choice as blocks, one after another: thinking, text, calls. Two APIs stream their output so.

Knows events. Does not know the documents of either API. White space between two other blocks makes no block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..asks.events import CallDelta, Event, Finished, TextDelta, ThinkingDelta

Kind = Literal["thinking", "text", "call"]
Step = Literal["open", "add", "close"]


@dataclass(slots=True)
class Block:
    """A part of an output. `text`: what is there so far; of a call, its arguments. `id`, `name`: of a call."""

    index: int
    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""


class Blocks:
    """Follows the events of a stream. `done`: the blocks so far, the last of them perhaps open."""

    def __init__(self) -> None:
        self.done: list[Block] = []
        self._open = False
        self._space = ""

    def feed(self, event: Event) -> Iterator[tuple[Step, Block, str]]:
        """Yields the steps of an event: a block opens, grows by a text, or closes."""
        match event:
            case ThinkingDelta():
                yield from self._grow("thinking", event.text)
            case TextDelta():
                yield from self._grow("text", event.text)
            case CallDelta():
                if event.name is not None:
                    yield from self._new(Block(len(self.done), "call", id=event.id or "", name=event.name))
                if event.arguments:
                    yield self._add(event.arguments)
            case Finished():
                yield from self._close()
            case _:
                pass

    def _grow(self, kind: Kind, text: str) -> Iterator[tuple[Step, Block, str]]:
        if not self._open or self.done[-1].kind != kind:
            text, self._space = self._space + text, ""
            if not text.strip():
                self._space = text
                return
            yield from self._new(Block(len(self.done), kind))
        yield self._add(text)

    def _new(self, block: Block) -> Iterator[tuple[Step, Block, str]]:
        yield from self._close()
        self.done.append(block)
        self._open, self._space = True, ""
        yield "open", block, ""

    def _add(self, text: str) -> tuple[Step, Block, str]:
        self.done[-1].text += text
        return "add", self.done[-1], text

    def _close(self) -> Iterator[tuple[Step, Block, str]]:
        if self._open:
            self._open = False
            yield "close", self.done[-1], ""


def blocks_of(finished: Finished) -> list[Block]:
    """Returns the blocks of a whole output."""
    found = list[Block]()
    if finished.thinking:
        found.append(Block(0, "thinking", finished.thinking))
    if finished.content:
        found.append(Block(len(found), "text", finished.content))
    for call in finished.calls:
        found.append(Block(len(found), "call", call.arguments, call.id, call.name))
    return found
