"""What the reader of a stream has already, and the rest of an output that is decoded again for him.

Knows events. Does not know replicas. A later attempt makes the same text in other pieces; each piece is compared with
what was delivered and only what goes beyond it is told. An output that begins otherwise raises ReplayDiffers: exact
modes never do that with the same weights and kernels, and text of two outputs is never mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..server.asks.events import CallDelta, Event, Finished, Started, TextDelta, ThinkingDelta
from ..server.refusals import ReplayDiffers

Channel = tuple[str, int]
"""Kind of text and, of a tool call's name or arguments, the number of the call."""


@dataclass(slots=True)
class Piece:
    """Text of one channel without a break."""

    channel: Channel
    text: str


@dataclass(slots=True)
class Output:
    """One choice. `piece` and `at`: how far the current attempt has come in `pieces`, which were delivered."""

    pieces: list[Piece] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)
    piece: int = 0
    at: int = 0
    started: bool = False
    finished: bool = False

    def rest(self, channel: Channel, text: str) -> str:
        """Returns the part of `text` that was not delivered yet, and counts it as delivered. Raises ReplayDiffers."""
        while text and (expected := self._next(channel)):
            same = min(len(expected), len(text))
            if expected[:same] != text[:same]:
                raise ReplayDiffers(f"{_told(channel)}: decoded again, it goes on {text[:20]!r} and not as before")
            self.at, text = self.at + same, text[same:]
        if text and self.finished:
            raise ReplayDiffers(f"{_told(channel)}: decoded again, it goes on beyond its end")
        if text:
            self._add(channel, text)
        return text

    def _next(self, channel: Channel) -> str:
        """Returns what was delivered from here on in the channel; "" at the end of all. Raises ReplayDiffers."""
        while self.piece < len(self.pieces):
            now = self.pieces[self.piece]
            if now.channel == channel and self.at < len(now.text):
                return now.text[self.at :]
            if self.at < len(now.text):
                raise ReplayDiffers(f"{_told(channel)} comes where {_told(now.channel)} went on before")
            if self.piece == len(self.pieces) - 1:
                break
            self.piece, self.at = self.piece + 1, 0
        return ""

    def _add(self, channel: Channel, text: str) -> None:
        if not self.pieces or self.pieces[-1].channel != channel:
            self.pieces.append(Piece(channel, ""))
        self.pieces[-1].text += text
        self.piece, self.at = len(self.pieces) - 1, len(self.pieces[-1].text)

    def check_end(self) -> None:
        """Raises ReplayDiffers if the attempt ends before what was delivered."""
        if self.pieces and (self.piece, self.at) != (len(self.pieces) - 1, len(self.pieces[-1].text)):
            raise ReplayDiffers("the output that was decoded again ends before what was delivered")


@dataclass(slots=True)
class Delivered:
    """The outputs of one request."""

    _outputs: dict[int, Output] = field(default_factory=dict)

    def again(self) -> None:
        """Begins another attempt."""
        for output in self._outputs.values():
            output.piece, output.at = 0, 0

    def feed(self, event: Event) -> Iterator[Event]:
        """Yields what the event tells beyond what was delivered. Raises ReplayDiffers."""
        output = self._outputs.setdefault(event.choice, Output())
        match event:
            case Started():
                if not output.started:
                    output.started = True
                    yield event
            case TextDelta():
                if rest := output.rest(("text", 0), event.text):
                    yield replace(event, text=rest)
            case ThinkingDelta():
                if rest := output.rest(("thinking", 0), event.text):
                    yield replace(event, text=rest)
            case CallDelta():
                yield from _call(output, event)
            case Finished():
                yield from _end(output, event)


def _call(output: Output, event: CallDelta) -> Iterator[CallDelta]:
    """Yields the rest of a piece of a call. A call keeps the id that was delivered: each attempt makes its own."""
    name = None if event.name is None else output.rest(("the name of call", event.index), event.name)
    if name and event.id is not None:
        output.ids[event.index] = event.id
    arguments = output.rest(("the arguments of call", event.index), event.arguments)
    if name:
        yield replace(event, arguments=arguments)
    elif arguments:
        yield replace(event, id=None, name=None, arguments=arguments)


def _end(output: Output, event: Finished) -> Iterator[Finished]:
    output.check_end()
    if not output.finished:
        output.finished = True
        calls = [replace(call, id=output.ids.get(index, call.id)) for index, call in enumerate(event.calls)]
        yield replace(event, calls=tuple(calls))


def _told(channel: Channel) -> str:
    kind, number = channel
    return f"{kind} {number}" if "call" in kind else kind
