"""What every record says of its call, whoever decoded it.

Knows plain values. Does not know requests, servers or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

from pydantic import JsonValue

from ..errors import error_type
from .host import HostRun, ServedBy
from .package_versions import versions
from .record import PolicyUsed, Runtime, StepKind


class CallFacts(TypedDict):
    """Keyword arguments of `record_call` and `record_remote_call`, as `CallRecord` names them. `call`: an id of its own
    where none is given. `error`: what the call raised. `schema`, `logprobs` and the error's message are content, which
    `content=False` leaves out."""

    step: str
    kind: StepKind
    requested: Mapping[str, JsonValue]
    policy: PolicyUsed
    runtime: Runtime
    start_ns: int
    end_ns: int
    call: NotRequired[str | None]
    session: NotRequired[str | None]
    agent: NotRequired[str | None]
    schema: NotRequired[JsonValue]
    schema_formats: NotRequired[str | None]
    schema_sha256: NotRequired[str | None]
    schema_valid: NotRequired[bool | None]
    notes: NotRequired[Sequence[str]]
    error: NotRequired[BaseException | None]
    guarantee: NotRequired[str | None]
    host: NotRequired[HostRun | None]
    logprobs: NotRequired[Sequence[float] | None]
    served: NotRequired[ServedBy | None]
    content: NotRequired[bool]


def shared_fields(facts: CallFacts) -> dict[str, Any]:
    """Returns the fields of `CallRecord` that need no more than these facts, without content."""
    error = facts.get("error")
    return {
        "call": facts.get("call") or uuid4().hex,
        "step": facts["step"],
        "kind": facts["kind"],
        "session": facts.get("session"),
        "agent": facts.get("agent"),
        "start_ns": facts["start_ns"],
        "end_ns": facts["end_ns"],
        "requested": dict(facts["requested"]),
        "policy": facts["policy"],
        "runtime": facts["runtime"],
        "versions": versions(),
        "schema_formats": facts.get("schema_formats"),
        "schema_sha256": facts.get("schema_sha256"),
        "schema_valid": facts.get("schema_valid"),
        "notes": tuple(facts.get("notes", ())),
        "error": None if error is None else error_type(error),
        "guarantee": facts.get("guarantee"),
        "host": facts.get("host") or None,
        "served": facts.get("served"),
    }


def error_text(facts: CallFacts) -> str | None:
    """Returns the message of the error, which is content."""
    error = facts.get("error")
    return None if error is None else str(error)
