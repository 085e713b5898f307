"""Responses of server-sent events: comments while nothing happens, errors as events, an end when the client leaves.

Knows SSE and ASGI. Does not know which documents an API streams: a `Writer` makes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..asks.events import Event, Started
from ..settings import ServerSettings
from ..wire.headers import started_headers
from .connection import END, QUIET, Feed, while_connected

KEEP_ALIVE: Final = b": keep-alive\n\n"
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Writer(Protocol):
    """Makes one API's stream of the events of one ask."""

    def write(self, event: Event) -> Iterable[bytes]:
        """Returns the chunks of one event."""
        ...

    def failed(self, error: Exception) -> Iterable[bytes]:
        """Returns the chunks that tell of an error amid the stream."""
        ...

    def end(self) -> Iterable[bytes]:
        """Returns the chunks after the last event."""
        ...


def sse(document: Mapping[str, Any] | str, event: str | None = None) -> bytes:
    """Returns one event. A document is written as JSON in one line of UTF-8, so that no character is cut."""
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


async def event_stream(
    request: Request,
    events: AsyncGenerator[Event],
    writer: Writer,
    settings: ServerSettings,
) -> Response:
    """Returns the stream once its first event is there, or after `keep_alive` seconds without one.

    Raises what ends the ask before that, so that a refusal has its own status.
    """
    feed = Feed(events)
    try:
        first = await while_connected(request.receive, feed.next(settings.keep_alive))
    except BaseException:
        await feed.aclose()
        raise
    return _EventStream(feed, first, writer, settings)


class _EventStream(Response):
    """`first`: the event that came already, or QUIET."""

    media_type = "text/event-stream"

    def __init__(
        self,
        feed: Feed[Event],
        first: Event | object,
        writer: Writer,
        settings: ServerSettings,
    ) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.init_headers(_HEADERS | (started_headers(first) if isinstance(first, Started) else {}))
        self._feed, self._first, self._writer, self._settings = feed, first, writer, settings

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_all(send))
        finally:
            await self._feed.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._raw_headers()})
        async for chunk in self._chunks():
            async with asyncio.timeout(self._settings.stall):  # a reader that has stopped reading
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    async def _chunks(self) -> AsyncGenerator[bytes]:
        """Yields the writer's chunks; events that came together are one chunk."""
        event = self._first
        try:
            while event is not END:
                yield KEEP_ALIVE if event is QUIET else b"".join(self._writer.write(event))  # type: ignore[arg-type]
                event = await self._feed.next(self._settings.keep_alive)
        except Exception as error:
            yield b"".join(self._writer.failed(error))
        else:
            yield b"".join(self._writer.end())
