"""What a record keeps of a call to a server, also when it failed.

Knows requests, answers and errors. Does not know files.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pydantic import JsonValue

from ...audit import RemoteCall, RemoteUsed, Reported, SamplingUsed
from ...remote import Capabilities, RemoteAnswer, RemoteError, RemoteRequest, StreamBroken


def used_of(answer: RemoteAnswer) -> RemoteUsed:
    """Returns the endpoint that answered, and what it reported."""
    return RemoteUsed(
        pool=answer.pool,
        kind=answer.kind,
        method=answer.method,
        version=answer.version,
        model=answer.model,
        exactness=answer.exactness,
        seeds=answer.seeds,
        seconds=answer.seconds,
        reported=answer.reported,
        attempts=answer.attempts,
        first_seconds=answer.first_seconds,
        response_id=answer.response_id,
        fingerprint=answer.fingerprint,
        cut=answer.cut,
        held=answer.held,
        scores=None if answer.scores is None else answer.scores.how,
    )


def remote_call(
    request: RemoteRequest,
    answer: RemoteAnswer | None,
    first: Capabilities,
    error: BaseException | None,
    seconds: float,
) -> RemoteCall:
    """Returns the call as records keep it, with the text of an answer that broke off as its `partial`.

    `first`: the pool that was to be asked, for a call without an answer.
    """
    sampling = request.sampling
    options: dict[str, JsonValue] = {
        "mode": request.mode if answer is None else answer.mode, **request.knobs, **_scored(request)
    }  # fmt: skip
    found = RemoteCall(
        options=options,
        request=request.document(),
        max_tokens=request.max_tokens,
        stop=request.stop,
        sampling=SamplingUsed(**asdict(sampling)),
        used=_failed(first, error, seconds) if answer is None else used_of(answer),
    )
    if answer is None:
        return replace(found, answer={"partial": error.text}) if isinstance(error, StreamBroken) else found
    calls = [{"name": one.name, "arguments": one.arguments} for one in answer.calls]
    parts: dict[str, Any] = {"thinking": answer.thinking, "calls": calls or None}
    kept = {name: value for name, value in parts.items() if value is not None}
    return replace(found, text=answer.text, answer=kept, finish_reason=answer.finish_reason)


def _scored(request: RemoteRequest) -> dict[str, JsonValue]:
    """Returns how many options were scored, or of a decision how many questions, as records of engines here say it."""
    if not request.scoring:
        return {}
    asks = bool(request.scoring[0].question)
    return {"questions": len(request.scoring)} if asks else {"candidates": len(request.scoring[0].options)}


def _failed(first: Capabilities, error: BaseException | None, seconds: float) -> RemoteUsed:
    known = error if isinstance(error, RemoteError) else None
    return RemoteUsed(
        pool=(known.pool if known is not None else "") or first.pool,
        kind=first.kind,
        method=first.method,
        version=first.version,
        model=first.model,
        exactness=first.exactness,
        seeds=first.seeds,
        seconds=seconds,
        reported=Reported(),
        attempts=known.attempts if known is not None else (),
    )
