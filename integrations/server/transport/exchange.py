"""One request as every endpoint needs it: its body, its caller, the service, and what the log will say of it.

Knows Starlette's requests and the service. Does not know any API's documents.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from ..asks.ask import Ask, Caller
from ..asks.events import Event, Finished
from ..refusals import UnknownModel
from ..service import Front
from ..wire.base import TrimodeOptions
from ..wire.bodies import body_of
from ..wire.headers import caller_of, options_of
from .connection import while_connected


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that was read. `options`: those of its headers. `began`: seconds since the epoch. `log`: fields of the
    line that the log will have of it."""

    service: Front
    body: dict[str, Any]
    caller: Caller
    options: TrimodeOptions
    began: int
    log: dict[str, Any]

    def check_model(self, name: str) -> None:
        """Raises UnknownModel unless the server serves `name`."""
        if name not in self.service.names:
            known = ", ".join(self.service.names)
            raise UnknownModel(f"the model {name[:200]!r} is not served here; known: {known}", "model")

    async def noted(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """Yields the events, and keeps for the log what they say of the call."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    self.log.update(
                        record=event.report["record"], mode=event.report["mode"], kind=event.report["kind"],
                        prompt_tokens=event.usage.prompt, finish=event.finish,
                        output_tokens=event.usage.output + self.log.get("output_tokens", 0),
                    )  # fmt: skip
                yield event


async def exchange(request: Request) -> Exchange:
    """Reads a request. Raises the errors of `bodies.py` and `headers.py`."""
    service: Front = request.app.state.service
    state = request.state
    return Exchange(
        service=service,
        body=await body_of(request, service.settings),
        caller=replace(
            caller_of(request.headers, state.tenant, state.request_id), served=getattr(state, "served", None)
        ),
        options=options_of(request.headers),
        began=int(time.time()),
        log=state.log,
    )


async def finished_of(request: Request, served: Exchange, asks: Sequence[Ask]) -> list[Finished]:
    """Returns the whole outputs of all choices, in order. Raises CallerLeft where the client leaves before."""
    events = served.noted(served.service.runner.events(asks))
    return await while_connected(request.receive, _finished(events))


async def _finished(events: AsyncGenerator[Event]) -> list[Finished]:
    async with aclosing(events):
        found = [event async for event in events if isinstance(event, Finished)]
    return sorted(found, key=lambda one: one.choice)
