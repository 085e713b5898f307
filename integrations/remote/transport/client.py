"""One server's HTTP client: pooled connections, HTTP/2 where it can be had, and the key from the environment.

Knows httpx. Does not know APIs. The key is in this object's requests alone: not in its `repr`, in errors, spans or
records, and no redirect can carry it away, because redirects are not followed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import httpx

from trimode.engine.errors import RequestError
from trimode.policy.remote import AnswerGarbled, Timeouts

from .faults import as_ours, phase, refusal

_LARGEST = 1 << 20
"""Number of bytes of an error's body that are read."""


class Client:
    """Requests to one server. To be used in one event loop."""

    def __init__(self, pool: str, url: str, key_env: str | None, timeouts: Timeouts, limit: int) -> None:
        self.pool: str = pool
        self.url: str = url.rstrip("/")
        self._timeouts = timeouts
        key = _key(key_env)
        self._http = httpx.AsyncClient(
            base_url=self.url.removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            http2=find_spec("h2") is not None and url.startswith("https:"),
            timeout=httpx.Timeout(None, connect=timeouts.connect, write=timeouts.write),
            limits=httpx.Limits(max_connections=limit + 2, max_keepalive_connections=limit, keepalive_expiry=60),
            follow_redirects=False,
            verify=_certificates(),
        )

    def __repr__(self) -> str:
        return f"<Client of {self.pool}>"

    async def get(self, path: str) -> Any:
        """Returns the JSON of a GET, or None where the server has no such path. Raises RemoteError."""
        with as_ours(self.pool, self._timeouts, reading="connect"):
            response = await self._http.get(path, timeout=httpx.Timeout(self._timeouts.connect))
        if response.status_code in (404, 405, 501):
            return None
        return self._document(path, response)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Returns the JSON of a POST. Raises RemoteError."""
        with as_ours(self.pool, self._timeouts):
            response = await self._http.post(path, json=body, timeout=httpx.Timeout(self._timeouts.first))
        return self._document(path, response)

    def _document(self, path: str, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise refusal(self.pool, response.status_code, response.headers, response.content[:_LARGEST])
        try:
            return response.json()
        except ValueError:
            raise AnswerGarbled(self.pool, f"{path} is not JSON") from None

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[httpx.Response]:
        """Yields a response whose headers are those of an event stream. Leaving early closes the connection, by which
        the server learns that nobody waits. Raises RemoteError."""
        request = self._http.build_request("POST", path, json=body, headers={"Accept": "text/event-stream"})
        with as_ours(self.pool, self._timeouts):
            async with phase(self.pool, "first", self._timeouts.first):
                response = await self._http.send(request, stream=True)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200:
                with as_ours(self.pool, self._timeouts):
                    async with phase(self.pool, "first", self._timeouts.first):
                        content = await response.aread()
                raise refusal(self.pool, response.status_code, response.headers, content[:_LARGEST])
            if kind != "text/event-stream":
                raise AnswerGarbled(self.pool, f"content type {kind or 'missing'!r}, expected 'text/event-stream'")
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._http.aclose()


@cache
def _certificates() -> ssl.SSLContext:
    """Returns the context that checks certificates, which takes 0.1 s to make."""
    return httpx.create_ssl_context()


def _key(name: str | None) -> str | None:
    """Returns the key in a variable of the environment. Raises RequestError where it is not set."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise RequestError(f"api_key_env={name!r}: the environment has no such variable, or it is empty")
    if not key.isascii() or not key.isprintable():
        raise RequestError(f"api_key_env={name!r}: what the variable holds is no key: expected printable ASCII")
    return key
