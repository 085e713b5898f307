"""What went wrong in HTTP, as our errors.

Knows httpx's exceptions, status codes and OpenAI's error bodies. Does not know calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from trimode.policy.remote import (
    AnswerGarbled,
    CallRefused,
    RemoteError,
    ServerBusy,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    Timeouts,
)

from .waiting import retry_after


@contextmanager
def as_ours(pool: str, timeouts: Timeouts, reading: str = "first") -> Generator[None]:
    """Raises RemoteError in the place of httpx's exceptions. Their texts have no headers in them. `reading`: the phase
    in which an answer is waited for."""
    try:
        yield
    except httpx.ConnectTimeout:
        raise ServerTimeout(pool, "connect", timeouts.connect) from None
    except httpx.WriteTimeout:
        raise ServerTimeout(pool, "write", timeouts.write) from None
    except httpx.ReadTimeout:
        raise ServerTimeout(pool, reading, getattr(timeouts, reading)) from None
    except (httpx.DecodingError, httpx.TooManyRedirects) as error:
        raise AnswerGarbled(pool, str(error) or type(error).__name__) from None
    except httpx.RemoteProtocolError as error:
        text = str(error)
        if "without sending" in text or "disconnected" in text or "peer closed" in text:
            raise ServerUnreachable(pool, f"it closed the connection ({text})") from None
        raise AnswerGarbled(pool, f"not HTTP: {text}") from None
    except httpx.TransportError as error:
        raise ServerUnreachable(pool, str(error) or type(error).__name__) from None


@asynccontextmanager
async def phase(pool: str, name: str, seconds: float) -> AsyncGenerator[None]:
    """Raises ServerTimeout if what is inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ServerTimeout(pool, name, seconds) from None


def refusal(pool: str, status: int, headers: Mapping[str, str], body: bytes) -> RemoteError:
    """Returns the error of a response that is not a success."""
    said = message_of(body)
    if status == 429 or status == 503:
        return ServerBusy(pool, status, retry_after(headers))
    if status >= 500:
        return ServerFailed(pool, status, said)
    if status in (401, 403):
        return CallRefused(pool, status, f"{said} (api_key_env names the variable with the key)")
    if status >= 400:
        return CallRefused(pool, status, said)
    return AnswerGarbled(pool, f"status {status}")


def message_of(body: bytes) -> str:
    """Returns the message in an error's body, in one of the shapes that servers use, else the body's beginning."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return body[:300].decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)[:300]
