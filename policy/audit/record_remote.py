"""The record of a call that a server decoded.

Knows plain values: the request and the answer as JSON. Does not know requests, servers or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from ..errors import error_type
from .host import HostRun, ServedBy
from .package_versions import versions
from .record import CallRecord, PolicyUsed, Runtime, SamplingUsed, StepKind
from .remote_record import RemoteUsed, answer_digest, request_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCall:
    """What was asked and answered. `options`: mode and knobs. `request`: the call as JSON; `answer`: thinking and calls
    beside `text`; None, as `finish_reason`, where there is no answer. `used` is None where no server answered.
    """

    options: Mapping[str, JsonValue]
    request: Mapping[str, JsonValue]
    max_tokens: int
    stop: Sequence[str]
    sampling: SamplingUsed
    text: str | None = None
    answer: Mapping[str, JsonValue] | None = None
    finish_reason: str | None = None
    used: RemoteUsed


def record_remote_call(
    remote: RemoteCall,
    *,
    call: str,
    step: str,
    kind: StepKind,
    session: str | None,
    agent: str | None,
    requested: Mapping[str, JsonValue],
    policy: PolicyUsed,
    runtime: Runtime,
    start_ns: int,
    end_ns: int,
    schema: JsonValue,
    schema_formats: str | None,
    schema_sha256: str | None,
    schema_valid: bool | None,
    notes: Sequence[str],
    error: BaseException | None,
    guarantee: str | None,
    content: bool,
    host: HostRun | None = None,
    served: ServedBy | None = None,
) -> CallRecord:
    """Returns the record. With `content=False` it has what `redacted` leaves."""
    text, answer = remote.text, dict(remote.answer or {})
    found = CallRecord(
        call=call,
        step=step,
        kind=kind,
        session=session,
        agent=agent,
        start_ns=start_ns,
        end_ns=end_ns,
        requested=dict(requested),
        options=dict(remote.options),
        sampling=remote.sampling,
        max_tokens=remote.max_tokens,
        stop=tuple(remote.stop),
        thinking=None,
        policy=policy,
        runtime=runtime,
        versions=versions(),
        schema_formats=schema_formats,
        schema_sha256=schema_sha256,
        schema_valid=schema_valid,
        notes=tuple(notes),
        error=None if error is None else error_type(error),
        finish_reason=remote.finish_reason,
        prompt_sha256=request_digest(remote.request),
        output_sha256=None if text is None else answer_digest(remote.request, text, answer),
        counts=None,
        rounds=(),
        guarantee=guarantee,
        host=host or None,
        served=served,
        remote=_with_content(remote.used, remote.request, remote.answer if text is None else answer),
        text=text,
        schema=schema,
        error_message=None if error is None else str(error),
    )
    return found if content else found.redacted()


def _with_content(used: RemoteUsed, request: Mapping[str, Any], answer: Mapping[str, Any] | None) -> RemoteUsed:
    return replace(used, request=dict(request), answer=None if answer is None else dict(answer))
