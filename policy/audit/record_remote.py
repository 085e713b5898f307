"""The record of a call that a server decoded.

Knows plain values: the request and the answer as JSON. Does not know requests, servers or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from pydantic import JsonValue

from .call_facts import CallFacts, error_text, shared_fields
from .record import CallRecord, SamplingUsed
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


def record_remote_call(remote: RemoteCall, **facts: Unpack[CallFacts]) -> CallRecord:
    """Returns the record. With `content=False` it has what `redacted` leaves."""
    text, answer, logprobs = remote.text, dict(remote.answer or {}), facts.get("logprobs")
    found = CallRecord(
        **shared_fields(facts),
        options=dict(remote.options),
        sampling=remote.sampling,
        max_tokens=remote.max_tokens,
        stop=tuple(remote.stop),
        thinking=None,
        finish_reason=remote.finish_reason,
        prompt_sha256=request_digest(remote.request),
        output_sha256=None if text is None else answer_digest(remote.request, text, answer),
        counts=None,
        rounds=(),
        remote=_with_content(remote.used, remote.request, remote.answer if text is None else answer),
        text=text,
        schema=facts.get("schema"),
        error_message=error_text(facts),
        logprobs=None if logprobs is None else tuple(logprobs),
    )
    return found if facts.get("content", True) else found.redacted()


def _with_content(used: RemoteUsed, request: Mapping[str, Any], answer: Mapping[str, Any] | None) -> RemoteUsed:
    return replace(used, request=dict(request), answer=None if answer is None else dict(answer))
