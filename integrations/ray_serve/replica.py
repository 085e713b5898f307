"""One replica: an engine, the server's service over it, and the requests that the door sends.

Knows the server and work. Does not know Ray: `application.py` makes an actor of it. What an engine raises is told as an
event; an exception from here means that the replica itself is broken.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from trimode.policy.audit import ServedBy
from trimode.policy.calls import Engine

from ..server.app import create_app
from ..server.asks.events import Event, Finished, Started
from ..server.service import Service, service_of
from ..server.settings import ServerSettings
from .work import Answered, Batch, Exchanged, Failed, Work, portable


@dataclass(frozen=True, slots=True)
class About:
    """A replica: its name and process, and the model's names and fingerprint, which are alike on all."""

    replica: str
    pid: int
    names: tuple[str, ...]
    fingerprint: str


@dataclass(slots=True)
class Replica:
    """An engine under a name. `audit` of the settings becomes a file of the replica's own."""

    name: str
    engine: Engine
    service: Service
    _app: Starlette
    _until_end: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def load(cls, name: str, settings: ServerSettings) -> Replica:
        """Loads the engine. Raises what `Engine.load` and `service_of` raise."""
        own = settings.model_copy(update={"audit": audit_of(settings.audit, name), "hosts": ["*"]})  # the door checks
        until_end = ExitStack()
        with ExitStack() as loading:
            engine = loading.enter_context(
                Engine.load(own.model, device=own.device, dtype=own.dtype, kv_bytes=own.kv_bytes)
            )
            service = service_of(engine, own, loading)
            until_end = loading.pop_all()
        app = create_app(engine, own)
        app.state.service = service
        return cls(name, engine, service, app, until_end)

    def about(self) -> About:
        """Returns what this replica is and serves."""
        return About(self.name, os.getpid(), self.service.names, self.service.fingerprint)

    def check(self) -> None:
        """Raises what stopped the engine, if something has."""
        _ = self.engine.live

    def metrics(self) -> tuple[str, str]:
        """Returns the replica's name and its metrics in Prometheus' text format."""
        return self.name, self.service.meters.text().decode()

    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        """Yields the replica's name, then events, those that are there at once together. Closing it cancels them."""
        yield self.name
        served, come = work.served(self.name), asyncio.Queue[Event | Failed | None]()
        pump = asyncio.create_task(self._pump(work, served, come))
        try:
            ended = False
            while not ended:
                batch = [await come.get()]
                while not come.empty():
                    batch.append(come.get_nowait())
                ended = batch[-1] is None
                if told := [one for one in batch if one is not None]:
                    yield told
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, work: Work, served: ServedBy, come: asyncio.Queue[Event | Failed | None]) -> None:
        """Puts the events of the asks, the error that ended them, and None at the end."""
        try:
            async with aclosing(self.service.runner.events(work.asks_here(served))) as events:
                async for event in events:
                    come.put_nowait(_marked(event, served))
        except Exception as error:
            come.put_nowait(Failed(portable(error)))
        come.put_nowait(None)

    async def answer(self, asked: Exchanged) -> Answered:
        """Returns the response of this replica's own server to a whole request."""
        app = _ServedApp(self._app, asked.served(self.name))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            found = await client.request(asked.method, asked.path, headers=asked.headers, content=asked.body)
        return Answered(status=found.status_code, headers=tuple(found.headers.items()), body=found.content)

    def close(self) -> None:
        """Closes the audit file, saves what policies learned, and closes the engine. Again it does nothing."""
        self._until_end.close()


@dataclass(frozen=True, slots=True)
class _ServedApp:
    """The server's app, for requests of which a replica's receipt is known."""

    app: Starlette
    served: ServedBy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["served"] = self.served
        await self.app(scope, receive, send)


def audit_of(path: Path | None, replica: str) -> Path | None:
    """Returns the replica's own audit file, next to the one that was asked for: `audit.jsonl` is `audit-NAME.jsonl`."""
    return None if path is None else path.with_name(f"{path.stem}-{replica}{path.suffix}")


def _marked(event: Event, served: ServedBy) -> Event:
    """Returns the event with the replica's receipt, where it has a place for one."""
    if isinstance(event, Started):
        return replace(event, replica=served.replica)
    if isinstance(event, Finished):
        receipt: dict[str, Any] = asdict(replace(served, choice=event.choice))
        return replace(event, report={**event.report, "served": receipt})
    return event
