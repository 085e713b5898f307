"""A request's body as JSON values, within limits of bytes, time, depth and characters.

Knows HTTP bodies and JSON. Does not know what the documents mean. What JSON leaves open is refused: repeated keys, NaN,
half surrogate pairs.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from ..refusals import BadBody, BodyTooLarge, BodyTooSlow, WrongContentType
from ..settings import ServerSettings


async def body_of(request: Request, limits: ServerSettings) -> dict[str, Any]:
    """Returns the request's JSON object. Raises WrongContentType, BodyTooLarge, BodyTooSlow or BadBody."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise WrongContentType(f"content-type {kind[:100]!r}: expected application/json")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise WrongContentType(f"content-encoding {coding[:100]!r}: expected a body that is not compressed")
    return parsed(await body_bytes(request, limits), limits.max_depth)


def parsed(body: bytes, max_depth: int) -> dict[str, Any]:
    """Returns the JSON object that `body` is. Raises BadBody, which says where it is none."""
    try:
        text = body.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8, at byte {error.start}") from None
    except RecursionError:
        raise BadBody(f"the body is nested deeper than {max_depth} levels") from None
    except BadBody:
        raise
    except ValueError as error:
        raise BadBody(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadBody("the body is JSON, but no object")
    _check(found, max_depth)
    return found


async def body_bytes(request: Request, limits: ServerSettings) -> bytes:
    """Returns the body; stops reading at the limits, whatever the headers promise.

    Raises BodyTooLarge and BodyTooSlow.
    """
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_body:
                    raise BodyTooLarge(f"the body has more than {limits.max_body} bytes, which is the limit")
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {limits.body_timeout:g} s") from None
    return b"".join(chunks)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadBody(f"the body has the key {twice[:100]!a} twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise BadBody(f"the body is not JSON: {name} is no number of JSON")


def _check(document: Any, max_depth: int) -> None:
    """Raises BadBody for values nested too deep, texts that are no Unicode, and numbers that became infinite."""
    level: list[Any] = [document]
    for _ in range(max_depth):
        below = list[Any]()
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            else:
                _check_scalar(value)
        if not below:
            return
        level = below
    if any(isinstance(value, dict | list) for value in level):
        raise BadBody(f"the body is nested deeper than {max_depth} levels")
    for value in level:
        _check_scalar(value)


def _check_scalar(value: Any) -> None:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise BadBody("the body has a number beyond the range of a double")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadBody(
                f"the body has half a surrogate pair, {value[error.start]!a}, which is no character"
            ) from None
