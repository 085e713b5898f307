"""What a request's headers say of the caller and of decoding, and the headers of a response.

Knows header names. Does not know bodies. A key comes as `Authorization: Bearer` or `x-api-key`; the session under one
of the names that routers use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import ValidationError

from ..asks.ask import Caller
from ..asks.events import Finished, Started
from ..refusals import BadParameter
from .base import TrimodeOptions

SESSIONS: Final = (
    "x-session-id", "x-session-token", "x-smg-routing-key", "x-sgl-routing-key", "x-dynamo-session-id",
)  # fmt: skip
"""Names of the header that names a session, the first one counts."""
REQUEST_ID: Final = "x-request-id"
_OWN: Final = "x-trimode-"
_LONGEST: Final = 200
_TRACES: Final = TraceContextTextMapPropagator()


def key_of(headers: Mapping[str, str]) -> str | None:
    """Returns the API key that the request presents."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" and key.strip() else headers.get("x-api-key")


def caller_of(headers: Mapping[str, str], tenant: str, request: str) -> Caller:
    """Returns who asks. Raises BadParameter for a session's name that is no short text."""
    name = next((one for one in SESSIONS if headers.get(one)), None)
    session = None if name is None else headers[name]
    if session is not None and (len(session) > _LONGEST or not session.isprintable()):
        raise BadParameter(f"{name}: expected at most {_LONGEST} printable characters", name)
    return Caller(tenant=tenant, session=session, trace=_TRACES.extract(dict(headers)), request=request)


def options_of(headers: Mapping[str, str]) -> TrimodeOptions:
    """Returns the options in headers such as `X-Trimode-Mode` or `X-Trimode-Block-Length`. Raises BadParameter."""
    given = {
        name.removeprefix(_OWN).replace("-", "_"): value for name, value in headers.items() if name.startswith(_OWN)
    }
    try:
        return TrimodeOptions.model_validate_strings(given, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = _OWN + str(first["loc"][0]).replace("_", "-")
        known = ", ".join(_OWN + field.replace("_", "-") for field in TrimodeOptions.model_fields)
        why = f"no such header; known: {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise BadParameter(f"{name}: {why}", name) from None


def started_headers(started: Started) -> dict[str, str]:
    """Returns the headers that are known when a stream begins."""
    found = {"record": started.record, "mode": started.mode, "kind": started.kind}
    if started.replica:
        found["replica"] = started.replica
    return {_OWN + name: value for name, value in found.items()}


def finished_headers(finished: Finished) -> dict[str, str]:
    """Returns the headers of a whole output."""
    report, usage = finished.report, finished.usage
    found: dict[str, Any] = {
        "record": report["record"], "mode": report["mode"], "kind": report["kind"], "passes": report["passes"],
        "accepted": usage.accepted, "rejected": usage.rejected, "reason": report["reason"],
    }  # fmt: skip
    if "served" in report:
        found |= {"replica": report["served"]["replica"], "replica-why": report["served"]["why"]}
    return {_OWN + name: _plain(str(value)) for name, value in found.items()}


def _plain(text: str) -> str:
    """Returns a text as a header can have it: one line of ASCII."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:1000]
