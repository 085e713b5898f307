"""Logs of OpenAI's API, one JSON object a line: {"request": ..., "response": ...} and what is known around them.

Knows the line. Does not know the two APIs' documents. Either document may stand inside {"body": ...}, as batch files
have it. Beside them a line may have `step`, `session` (or `session_id`, `conversation_id`, `trace_id`), `seconds` (or
`latency_ms`, `duration_ms`) and `first_token_seconds` (or `ttft_ms`); the request's `metadata` may have `step` and
`session` too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..calls import RecordedCall, Times
from ..refusals import Unreadable
from ..values import mapping, number, text
from .chat_log import chat_call
from .responses_log import responses_call

Json = Any
FAILED: Final = "the recorded call failed"
_LOOPS: Final = ("session", "session_id", "conversation_id", "trace_id")
_LAST: Final = {"seconds": 1.0, "latency_s": 1.0, "latency_ms": 1e-3, "duration_ms": 1e-3}
_FIRST: Final = {"first_token_seconds": 1.0, "ttft_s": 1.0, "ttft_ms": 1e-3}


def openai_calls(path: Path, number: int, line: Json) -> Iterator[RecordedCall | str]:
    """Yields the call of one line, or why it is left out. Raises Unreadable."""
    record = mapping(line, "line")
    request, response = _body(record, "request"), _body(record, "response")
    status = mapping(record["response"], "response").get("status_code", 200)
    if response.get("error") or record.get("error") or (isinstance(status, int) and status >= 400):
        yield FAILED
        return
    about = _about(record, mapping(request.get("metadata") or {}, "request.metadata"))
    read = responses_call if "input" in request else chat_call
    yield read(request, response, id=f"{path.name}:{number}", **about)


def _body(record: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    if record.get(key) is None:
        raise Unreadable(f"no {key!r}: expected 'request' and 'response'; found {', '.join(record)[:80]}")
    found = mapping(record[key], key)
    return mapping(found["body"], f"{key}.body") if "body" in found else found


def _about(record: Mapping[str, Json], metadata: Mapping[str, Json]) -> dict[str, Any]:
    around = {**metadata, **{key: value for key, value in record.items() if value is not None}}
    return {
        "step": text(around.get("step") or around.get("step_name"), "step"),
        "loop": next((text(around[key], key) for key in _LOOPS if around.get(key)), ""),
        "times": Times(first=_seconds(record, _FIRST), last=_seconds(record, _LAST)),
    }


def _seconds(record: Mapping[str, Json], units: Mapping[str, float]) -> float | None:
    key = next((key for key in units if record.get(key) is not None), None)
    found = None if key is None else number(record[key], key)
    return None if key is None or found is None else found * units[key]
