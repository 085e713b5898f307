"""A server over the reference checkpoint for tests: in the process, and on a socket of loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.applications import Starlette
from starlette.testclient import TestClient

from trimode.integrations.server.app import create_app
from trimode.integrations.server.asks.ask import Ask
from trimode.integrations.server.asks.events import Event
from trimode.integrations.server.process import in_thread
from trimode.integrations.server.service import Service
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls import Engine

MODEL: Final = "trimode-reference"
BASE: Final = "http://127.0.0.1"
ASK: Final = [{"role": "user", "content": "There are 5 boxes with 20 apples in each box. How many apples are there?"}]
LONG: Final[dict[str, Any]] = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 200, "maxItems": 200}
"""A schema whose outputs take hundreds of passes."""
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates an expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "maxLength": 12}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}


def chat(**more: Any) -> dict[str, Any]:
    """A body of /v1/chat/completions; None takes a key out."""
    body: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_completion_tokens": 8, **more}
    return {key: value for key, value in body.items() if value is not None}


def held_to(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@contextmanager
def client_of(engine: Engine, **settings: Any) -> Generator[TestClient]:
    with TestClient(create_app(engine, ServerSettings(**settings)), base_url=BASE) as client:
        yield client


def service_in(client: TestClient) -> Service:
    app = client.app
    assert isinstance(app, Starlette)
    service: Service = app.state.service
    return service


def documents(stream: str) -> list[Any]:
    """The documents of a stream of events, "[DONE]" as it is."""
    lines = [line.removeprefix("data: ") for line in stream.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass
class Scripted:
    """A runner that gives these events and then raises `error`, if there is one."""

    given: list[Event]
    error: Exception | None = None
    draining: bool = False
    pause: float = 0.0
    asks: list[Ask] = field(default_factory=list)

    async def events(self, asks: list[Ask]) -> AsyncGenerator[Event]:
        self.asks += asks
        for event in self.given:
            await asyncio.sleep(self.pause)
            yield event
        if self.error is not None:
            raise self.error


def play(client: TestClient, runner: Scripted, **settings: Any) -> None:
    """Puts a scripted runner in the place of the real one."""
    service, app = service_in(client), client.app
    assert isinstance(app, Starlette)
    known: Any = runner
    app.state.service = replace(service, runner=known, settings=service.settings.model_copy(update=settings))


@dataclass
class Connection:
    """One ASGI request without a network. It `leaves` when `leave` says so of what was sent."""

    app: Starlette
    leave: Callable[[list[dict[str, Any]]], bool] = lambda _: False
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        asked = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if asked:
                return asked.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(dict(message))
            if self.leave(self.sent):
                self.gone.set()

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "http", "http_version": "1.1", "headers": headers,
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
        }  # fmt: skip
        await self.app(scope, receive, send)


@contextmanager
def listening(engine: Engine, **settings: Any) -> Generator[str]:
    """Yields the URL of a server on loopback, in a thread of this process."""
    with in_thread(engine, ServerSettings(**settings)) as url:
        yield url


def idle(engine: Engine, seconds: float = 20.0) -> bool:
    """Whether the engine comes to rest."""
    end = time.monotonic() + seconds
    while engine.live and time.monotonic() < end:
        time.sleep(0.005)
    return engine.live == 0
