"""What goes from the door to a replica and back: one request's asks, and its events.

Knows asks, events and hints. Does not know Ray, apart from the attributes that its routers read. Everything here
crosses between processes by pickle.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trimode.policy.audit import ServedBy

from ..server.asks.ask import Ask
from ..server.asks.events import Event
from ..server.refusals import ServerError
from .hints import Hints
from .routing import Route

_TRACES: Final = TraceContextTextMapPropagator()


@dataclass(slots=True, kw_only=True)
class Sent:
    """A request on its way. `attempt`: from 1. `route`: set by the router on the way, so that the replica can say
    why it was chosen; None where one of Ray's own routers chose."""

    request: str
    hints: Hints
    attempt: int = 1
    route: Route | None = None

    def served(self, replica: str) -> ServedBy:
        """Returns the receipt of the replica that got the request."""
        why = "chosen by a router of Ray's" if self.route is None else self.route.reason(replica)
        if self.attempt > 1:
            why = f"decoded again, {', '.join(self.hints.avoid) or 'a replica'} was lost; {why}"
        return ServedBy(request=self.request, choice=0, attempt=self.attempt, replica=replica, why=why)


@dataclass(slots=True, kw_only=True)
class Work(Sent):
    """Asks to be decoded. `traces`: headers of the parent of their spans, because contexts do not cross processes."""

    asks: tuple[Ask, ...]
    traces: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The text by which Ray's prefix-aware router finds replicas with the same beginning in their caches."""
        return "".join(_text(ask) for ask in self.asks)

    def asks_here(self, served: ServedBy) -> list[Ask]:
        """Returns the asks as the replica runs them."""
        trace = _TRACES.extract(dict(self.traces))
        return [replace(ask, caller=replace(ask.caller, trace=trace, served=served)) for ask in self.asks]


def work_of(asks: Sequence[Ask], hints: Hints) -> Work:
    """Returns the asks of one request as work for a replica."""
    carrier: dict[str, str] = {}
    _TRACES.inject(carrier, asks[0].caller.trace)
    bare = tuple(replace(ask, caller=replace(ask.caller, trace=None)) for ask in asks)
    return Work(request=asks[0].caller.request, hints=hints, asks=bare, traces=carrier)


def _text(ask: Ask) -> str:
    if ask.prompt is not None:
        return ask.prompt
    if ask.messages is not None:
        return json.dumps([ask.tools, ask.messages], ensure_ascii=False, default=str)
    return " ".join(map(str, ask.prompt_ids or ()))


@dataclass(slots=True, kw_only=True)
class Exchanged(Sent):
    """A whole HTTP request that needs an engine but is no stream: decisions, tokens, the model's facts."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def prompt(self) -> str:
        """As of `Work`; never empty, because Ray's router divides by its length."""
        return f"{self.path} {self.body.decode(errors='replace')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The response to an `Exchanged`."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """What ended a request on a replica that is well: it is told to the caller, not tried elsewhere."""

    error: Exception


Batch = Sequence[Event | Failed]
"""Events that were there at once: they cross together, because each crossing costs time of both processes."""


def portable(error: Exception) -> Exception:
    """Returns the error, or one that says the same if it cannot cross between processes."""
    try:
        crossed = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign error's own methods raise
        return ServerError(f"{type(error).__name__}: {error}")
    return error if type(crossed) is type(error) else ServerError(f"{type(error).__name__}: {error}")
