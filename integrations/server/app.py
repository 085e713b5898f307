"""The ASGI app: routes, and what surrounds them.

Knows Starlette and the endpoints. Does not know settings' sources or how a process serves. Another API is a file with
its endpoints and one line in `ROUTES`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trimode.policy.calls import Engine

from .api.catalog import detokenize, model, models, tokenize
from .api.chat import chat_completions
from .api.completions import completions
from .api.decided import decisions, systemone
from .api.health import health, metrics, ready
from .api.messages import count_tokens, messages
from .api.openapi import openapi
from .api.responses import responses, stored
from .refusals import UnknownPath, WrongMethod
from .service import service_of
from .settings import ServerSettings
from .transport.edge import Edge, refusal

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]
ROUTES: Final = (
    Route("/health", health),
    Route("/ready", ready),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", model),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/responses", responses, methods=["POST"]),
    Route("/v1/responses/{rest:path}", stored, methods=["GET", "POST", "DELETE"]),
    Route("/v1/messages", messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    Route("/v1/decisions", decisions, methods=["POST"]),
    Route("/v1/systemone", systemone, methods=["POST"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
)


def create_app(engine: Engine, settings: ServerSettings | None = None) -> Starlette:
    """Returns the app over a loaded engine, which stays the caller's to close."""
    chosen = settings or ServerSettings()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        with ExitStack() as until_end:
            app.state.service = service_of(engine, chosen, until_end)
            yield

    return app_of(ROUTES, chosen, lifespan)


def app_of(routes: Sequence[BaseRoute], settings: ServerSettings, lifespan: Lifespan) -> Starlette:
    """Returns an app with these routes and all that surrounds them. `lifespan` sets its `state.service`, a `Front`."""
    return Starlette(
        routes=routes,
        middleware=[*_cors(settings), Middleware(Edge)],
        exception_handlers={HTTPException: _by_starlette},
        lifespan=lifespan,
    )


def _cors(settings: ServerSettings) -> list[Middleware]:
    """Returns the middleware that lets pages of other origins call the server; none by default."""
    if not settings.cors:
        return []
    return [Middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])]


async def _by_starlette(request: Request, error: Exception) -> Response:
    """Returns a wrong path or method in the shape of every other error."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        refused = refusal(WrongMethod(f"{request.url.path} does not take {request.method}"))
        refused.headers.update(error.headers or {})
        return refused
    return refusal(UnknownPath(f"there is nothing at {request.method} {request.url.path[:200]}"))
