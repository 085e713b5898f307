"""The record of one call, made of what is known at its end: decoded in this process, or by a server.

Knows plain values, requests and results of the engine, and a server's request and answer as JSON. Does not know
servers, files or spans.

Each digest covers the prompt and the output up to its point, because the digest of a one-token round alone could be
looked up by trying every token. Whoever has the prompt, the model and the seed can decode the output again anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack
from uuid import uuid4

from pydantic import JsonValue

from ..errors import error_type
from .digests import sequence_digests
from .host import HostRun, ServedBy
from .package_versions import versions
from .record import CallRecord, Counts, PolicyUsed, Runtime, SamplingUsed, StepKind, ThinkingUsed
from .remote_record import RemoteUsed, answer_digest, request_digest
from .round_record import PieceOf, TextOf, bare_round, record_round

if TYPE_CHECKING:
    from trimode.engine.request import DecodeRequest
    from trimode.engine.result import DecodeResult
    from trimode.engine.scoring import QuestionsRequest, ScoreRequest


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


def record_call(
    *,
    request: DecodeRequest | ScoreRequest | QuestionsRequest,
    result: DecodeResult | None,
    text_of: TextOf | None = None,
    piece_of: PieceOf | None = None,
    **facts: Unpack[CallFacts],
) -> CallRecord:
    """Returns the full record; sinks that keep no content redact it. `text_of` decodes token ids, and adds the text of
    each round and rejected token.

    `piece_of`: a cheaper `text_of` for one token. `content=False` builds what `redacted` returns, for callers that keep
    no more.
    """
    content = facts.get("content", True)
    rounds, thinking = result.rounds if result else (), getattr(request, "thinking", None)
    digests = sequence_digests(request.prompt, (part.tokens for part in rounds))
    decoders = None if text_of is None else (text_of, piece_of or (lambda token: text_of((token,))))
    parts = zip(rounds, digests[1:], strict=True)
    bare = CallRecord(
        **_shared(facts),
        options={"mode": request.first_options.mode, **_options(request)},
        sampling=SamplingUsed(**_fields(request.sampling)),
        max_tokens=request.max_tokens,
        stop=tuple(request.stop),
        thinking=None if thinking is None else ThinkingUsed(**_fields(thinking)),
        finish_reason=result.finish_reason if result else None,
        prompt_sha256=digests[0],
        output_sha256=digests[-1] if result else None,
        counts=_counts(result) if result else None,
        rounds=tuple([record_round(*part, decoders) if content else bare_round(*part) for part in parts]),
    )
    if not content:
        return bare
    logprobs = facts.get("logprobs")
    return replace(
        bare,
        prompt_ids=tuple(request.prompt),
        suffix_ids=getattr(request.options, "suffix", None),
        lookup_ids=getattr(request, "lookup", ()) or None,
        token_ids=result.token_ids if result else None,
        text=result.text if result else None,
        schema=facts.get("schema"),
        error_message=_message(facts),
        logprobs=None if logprobs is None else tuple(logprobs),
    )


def record_remote_call(remote: RemoteCall, **facts: Unpack[CallFacts]) -> CallRecord:
    """Returns the record. With `content=False` it has what `redacted` leaves."""
    text, answer, logprobs = remote.text, dict(remote.answer or {}), facts.get("logprobs")
    found = CallRecord(
        **_shared(facts),
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
        error_message=_message(facts),
        logprobs=None if logprobs is None else tuple(logprobs),
    )
    return found if facts.get("content", True) else found.redacted()


def _shared(facts: CallFacts) -> dict[str, Any]:
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


def _message(facts: CallFacts) -> str | None:
    """Returns the message of the error, which is content."""
    error = facts.get("error")
    return None if error is None else str(error)


def _options(request: DecodeRequest | ScoreRequest | QuestionsRequest) -> dict[str, JsonValue]:
    """Returns the mode's options; token ids among them are content, so only their number is kept."""
    return {name: len(v) if isinstance(v, tuple) else v for name, v in _fields(request.first_options).items()}


def _fields(flat: Any) -> dict[str, Any]:
    """Returns `asdict` of a dataclass with plain values, without copying them, because this runs for every call."""
    return {name: getattr(flat, name) for name in _names(flat.__class__)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _counts(result: DecodeResult) -> Counts:
    return Counts(**{name: getattr(result.stats, name) for name in _names(Counts)})


def _with_content(used: RemoteUsed, request: Mapping[str, Any], answer: Mapping[str, Any] | None) -> RemoteUsed:
    return replace(used, request=dict(request), answer=None if answer is None else dict(answer))
