"""What every request passes first and last: Host and key, a request id, errors as documents, one line of the log.

Knows ASGI, keys and the error table. Does not know endpoints. It is the outermost layer of the app, so that nothing
below can end a response without a line in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..error_table import document, retry_after, shape_of
from ..refusals import NoKey, UnknownPath
from ..service import Front
from ..wire.headers import REQUEST_ID, key_of

LOG: Final = logging.getLogger("trimode.server")
OPEN: Final = ("/health", "/ready")
"""Paths that need no key, because load balancers ask them."""


def refusal(error: Exception, path: str = "") -> Response:
    """Returns the response to an error. `path`: of the API that was asked."""
    headers = {} if (after := retry_after(error)) is None else {"retry-after": str(after)}
    if isinstance(error, NoKey):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(document(error, path), shape_of(error).status, headers)


@dataclass(slots=True)
class Exit:
    """What became of one request. `status`: of its response; 0 while none was sent."""

    request: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    log: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Edge:
    """Wraps the app below."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        leaving = Exit(_request_id(headers))

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                leaving.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = leaving.request
            await send(message)

        try:
            scope.setdefault("state", {}).update(request_id=leaving.request, log=leaving.log, tenant="")
            self._check(scope, headers)
            await self._app(scope, receive, sent)
        except Exception as error:
            await self._failed(error, leaving, scope, receive, sent)
        finally:
            _counted(scope, leaving)

    @staticmethod
    def _check(scope: Scope, headers: Headers) -> None:
        """Raises UnknownPath for a Host that is not the server's, and NoKey."""
        service: Front = scope["app"].state.service
        allowed = service.settings.allowed_hosts
        if "*" not in allowed and _name_of(headers.get("host", "")) not in allowed:
            raise UnknownPath(
                "the Host header names another server; `hosts` of the settings lists those served", "host"
            )
        if scope["path"] in OPEN:
            return
        tenant = service.keys.tenant(key_of(headers))
        if tenant is None:
            raise NoKey("no API key, or an unknown one; send `Authorization: Bearer KEY`")
        scope["state"]["tenant"] = tenant

    @staticmethod
    async def _failed(error: Exception, leaving: Exit, scope: Scope, receive: Receive, sent: Send) -> None:
        """Answers with the error where no response has begun, and keeps it for the log."""
        leaving.error = f"{type(error).__name__}: {error}"
        status = shape_of(error).status
        if status == 500:
            LOG.error("request failed", exc_info=error, extra={"fields": {"request": leaving.request}})
        if leaving.status == 0 and status != 499:
            await refusal(error, scope["path"])(scope, receive, sent)
        leaving.status = leaving.status or status


def _request_id(headers: Mapping[str, str]) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else uuid4().hex


def _name_of(host: str) -> str:
    """Returns a Host header without its port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).lower()


def _counted(scope: Scope, leaving: Exit) -> None:
    """Writes the log's line, and counts the request by its route."""
    route = getattr(scope.get("route"), "path", "none")
    scope["app"].state.service.meters.request(route, leaving.status)
    fields = {
        "request": leaving.request, "method": scope["method"], "path": route, "status": leaving.status,
        "seconds": round(time.perf_counter() - leaving.began, 4), "tenant": scope["state"]["tenant"], **leaving.log,
    }  # fmt: skip
    if leaving.error is not None:
        fields["error"] = leaving.error
    level = logging.DEBUG if scope["path"] in OPEN else logging.INFO
    LOG.log(level, "request", extra={"fields": fields})
