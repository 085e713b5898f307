"""The door: the server's app without an engine. It reads requests, hands asks to replicas and writes the answers.

Knows the server's endpoints and the dispatcher. Does not know Ray. What needs an engine and is no stream goes to a
replica as it came, and the response comes back as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..server.api.chat import chat_completions
from ..server.api.completions import completions
from ..server.api.messages import messages
from ..server.api.openapi import openapi
from ..server.api.responses import responses, stored
from ..server.app import ROUTES as SERVER_ROUTES
from ..server.app import app_of
from ..server.keys import read_keys
from ..server.service import Front
from ..server.settings import ServerSettings
from ..server.transport.connection import while_connected
from ..server.wire.bodies import body_bytes
from ..server.wire.headers import REQUEST_ID, caller_of
from .dispatch import Dispatcher, Replicas
from .hints import Hints
from .meters import DoorMeters
from .replica import About
from .work import Exchanged

_OWN: Final = frozenset(("content-length", "content-type", REQUEST_ID, "server", "date"))
"""Headers of a replica's response that the door writes itself."""
_HOP: Final = frozenset(("host", "content-length", "connection", "transfer-encoding", REQUEST_ID))
"""Headers of a request that are not for the replica."""
Endpoint = Callable[[Request], Awaitable[Response]]
Metrics = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the metrics of each replica, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorFront(Front):
    """What endpoints read at the door."""

    runner: Dispatcher
    meters: DoorMeters
    of_replicas: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What is behind a door. `about`: asks a replica what it serves, once there is one."""

    replicas: Replicas
    about: Callable[[], Awaitable[About]]
    metrics: Metrics
    meters: DoorMeters = field(default_factory=DoorMeters)


def door_app(behind: Behind, settings: ServerSettings) -> Starlette:
    """Returns the door's app. Raises KeyFileRefused when it starts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        keys, about = read_keys(settings.api_key_file), await behind.about()
        app.state.service = DoorFront(
            settings=settings,
            keys=keys,
            runner=Dispatcher(behind.replicas, settings.timeout, behind.meters),
            meters=behind.meters,
            names=about.names,
            fingerprint=about.fingerprint,
            of_replicas=behind.metrics,
        )
        yield

    return app_of(ROUTES, settings, lifespan)


async def health(request: Request) -> Response:
    """Answers 200 while the door serves; `/ready` asks a replica."""
    front: DoorFront = request.app.state.service
    return JSONResponse({"status": "ok", "model": front.name})


async def metrics(request: Request) -> Response:
    """Answers with the metrics of the door and of all replicas in Prometheus' text format."""
    front: DoorFront = request.app.state.service
    text = front.meters.text(await front.of_replicas())
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def relayed(request: Request) -> Response:
    """Answers with the response of a replica."""
    front: DoorFront = request.app.state.service
    caller = caller_of(request.headers, request.state.tenant, request.state.request_id)
    session = "" if caller.session is None else f"{caller.tenant}\n{caller.session}"
    body = await body_bytes(request, front.settings) if request.method == "POST" else b""
    kept = [(name, value) for name, value in request.headers.items() if name not in _HOP]
    asked = Exchanged(
        request=caller.request,
        hints=Hints(session=session, expected=1),
        method=request.method,
        path=request.url.path,
        headers=(*kept, (REQUEST_ID, caller.request)),
        body=body,
    )
    found = await while_connected(request.receive, front.runner.answer(asked))
    headers = {name: value for name, value in found.headers if name not in _OWN}
    return Response(found.body, found.status, headers, dict(found.headers).get("content-type"))


_OWN_ANSWERS: Final[Mapping[str, Endpoint]] = {"/health": health, "/metrics": metrics}
"""What the door answers otherwise than the server does."""
_READ_HERE: Final = frozenset((openapi, chat_completions, completions, responses, stored, messages))
"""Endpoints that need a front and no engine: they run at the door as they are."""


def _at_the_door(route: Route) -> Route:
    """Returns the server's route as the door has it: what needs an engine goes to a replica."""
    own = _OWN_ANSWERS.get(route.path) or (route.endpoint if route.endpoint in _READ_HERE else relayed)
    return Route(route.path, own, methods=sorted(route.methods or ()))


ROUTES: Final[tuple[Route, ...]] = tuple(map(_at_the_door, SERVER_ROUTES))
"""Those of the server, one and all."""
