"""One streamed request: events to an answer, in time, or the error of the phase that failed.

Knows the event stream, timeouts and readers. Does not know pools or retries.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

import httpx

from trimode.engine.result import FinishReason
from trimode.policy.remote import AnswerGarbled, StreamBroken, TextUpdate, Timeouts

from .drivers.openai import Sent
from .drivers.reader import AnswerReader
from .transport.client import Client
from .transport.events import BadEvent, EventReader
from .transport.faults import phase

_DONE: Final = "[DONE]"
_LENGTH: Final = frozenset({"length", "max_tokens", "model_length"})
_BROKEN: Final = frozenset({"abort", "error", "cancelled", "canceled"})
Show = Callable[[TextUpdate], None]


@dataclass(slots=True)
class Ended:
    """How a stream ended. `first_seconds`: to the first piece; `cut`: by the time that the call had left."""

    finish: FinishReason
    first_seconds: float | None
    cut: bool = False
    note: str = ""


async def read_answer(
    client: Client, sent: Sent, reader: AnswerReader, timeouts: Timeouts, show: Show | None, max_seconds: float | None
) -> Ended:
    """Reads one answer into `reader`. `show` gets each piece. After `max_seconds` the connection is closed, and what
    has come is the answer. Raises RemoteError."""
    began, first = time.perf_counter(), None
    try:
        async with asyncio.timeout(max_seconds), client.stream(sent.path, sent.body) as response:
            async for event in _events(client.pool, response, reader, timeouts):
                if event == _DONE:
                    break
                if reader.feed(_document(client.pool, event)):
                    first = first or time.perf_counter() - began
                    if show is not None:
                        show(reader.update)
    except TimeoutError:
        return Ended("length", first, cut=True)
    if reader.finish is None:
        raise StreamBroken(client.pool, "it ended without a reason to end", reader.text)
    if reader.finish in _BROKEN:
        raise StreamBroken(client.pool, f"the server ended it: {reader.finish}", reader.text)
    usual = reader.finish in ("stop", "eos", "eos_token", "stop_sequence", "tool_calls", "function_call", *_LENGTH)
    note = "" if usual else f"the server ended the output for the reason {reader.finish!r}"
    return Ended("length" if reader.finish in _LENGTH else "stop", first, note=note)


async def _events(pool: str, response: httpx.Response, reader: AnswerReader, timeouts: Timeouts) -> AsyncGenerator[str]:
    """Yields the data of events. Raises RemoteError; what breaks after the first text is StreamBroken."""
    events, chunks, begun = EventReader(), response.aiter_bytes(), False
    while True:
        name, limit = ("next", timeouts.next) if begun else ("first", timeouts.first)
        try:
            async with phase(pool, name, limit):
                chunk = await anext(chunks, None)
        except httpx.DecodingError as error:
            raise AnswerGarbled(pool, str(error)) from None
        except httpx.TransportError as error:
            raise StreamBroken(pool, f"the connection was lost ({type(error).__name__})", reader.text) from None
        if chunk is None:
            return
        begun = True
        try:
            for data in events.feed(chunk):
                yield data
        except BadEvent as error:
            raise AnswerGarbled(pool, str(error)) from None


def _document(pool: str, data: str) -> object:
    try:
        return json.loads(data)
    except ValueError:
        raise AnswerGarbled(pool, f"an event that is not JSON: {data[:80]!a}") from None
