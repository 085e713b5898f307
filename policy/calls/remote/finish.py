"""Turns a server's answer into a `Result`: the parsed value, the validators' verdict, the counts, and all notes.

Knows calls, their recordings and answers. Does not know HTTP, spans or files. Whatever a server promises, finished
output is validated here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trimode.engine.result import DecodeResult

from ...errors import SchemaViolation
from ...remote import OutputCut, RemoteAnswer, RemoteRequest, ReportedStats
from ...schema import IdentifiedCall, Turn
from ...selection import without_part
from ...telemetry import Spelling
from ...turns import TurnSegment, call_ids
from ..finish import failed_attempt
from ..recording import Recording
from ..result import Result, ScoredChoice
from .recorded import used_of

_NOT_KEPT = "the server accepted the schema and did not keep it; pass guarantee='checked', which tries again"
_CUT = "the output was cut at max_tokens before it was complete"


def finished(recording: Recording, answer: RemoteAnswer, shown_tokens: int) -> Result:
    """Returns the result and fills in the recording. `shown_tokens`: output tokens by our own count, used where the
    server gave none.

    Raises SchemaViolation, CheckFailed or OutputCut where constrained output is not valid.
    """
    call, request = recording.call, recording.request
    assert isinstance(request, RemoteRequest)
    decoded = decoded_of(answer, shown_tokens)
    plan = replace(call.plan, mode=answer.mode, exact=call.plan.exact and answer.mode != "diffusion")
    plan.policy.observe(plan, decoded)
    recording.notes += [*answer.notes, *_notes(recording, request, answer)]
    if request.held and answer.held is False:
        recording.guarantee = "checked"
    recording.valid = False if request.held else None
    try:
        value, segments = _value(recording, request, answer)
    except SchemaViolation as error:
        raise _refused(recording, answer, decoded, error) from None
    return result_of_answer(recording, answer, decoded, value, segments)


def decoded_of(answer: RemoteAnswer, shown_tokens: int) -> DecodeResult:
    """Returns the answer as an engine's result, without ids and rounds, with the counts that are known."""
    told = answer.reported
    stats = ReportedStats(
        prompt_tokens=told.prompt_tokens,
        cached_tokens=told.cached_tokens,
        output_tokens=shown_tokens if told.output_tokens is None else told.output_tokens,
        forward_passes=told.forward_passes,
        drafted=told.drafted,
        accepted=told.accepted,
        seconds=answer.seconds,
        prefill_seconds=told.prefill_seconds if told.prefill_seconds is not None else answer.first_seconds,
        kernels=f"{answer.kind} {answer.version or ''}".strip(),
    )
    return DecodeResult(token_ids=(), text=answer.text, finish_reason=answer.finish_reason, rounds=(), stats=stats)


def _value(recording: Recording, request: RemoteRequest, answer: RemoteAnswer) -> tuple[Any, tuple[TurnSegment, ...]]:
    """Returns the validated value and the segments of a turn. Raises SchemaViolation."""
    call = recording.call
    if request.held and answer.finish_reason == "length" and (call.turn is None or not _prose_alone(answer)):
        raise SchemaViolation(answer.text, _CUT, _CUT)
    if call.turn is not None:
        return _turn(recording, answer)
    if call.schema is None:
        return answer.text, ()
    text = json.dumps(answer.text) if call.kind == "choice" else answer.text
    value = call.schema.parse(text)
    recording.valid = True
    recording.notes += call.schema.remarks(text)
    return value, ()


def _prose_alone(answer: RemoteAnswer) -> bool:
    return not answer.calls


def _turn(recording: Recording, answer: RemoteAnswer) -> tuple[Turn, tuple[TurnSegment, ...]]:
    turn, plans = recording.call.turn, recording.call.segments
    assert turn is not None
    calls = tuple(_calls(recording, answer))
    if turn.choice == "required" and not calls:
        raise SchemaViolation(answer.text, "the turn has to call a tool, and the answer calls none", _NOT_KEPT)
    value = None if turn.answer is None or calls else turn.answer.parse(answer.text)
    checked = bool(calls) or turn.answer is not None
    recording.valid = checked or None
    kind: Any = turn.segment_kinds[0] if turn.answer is not None else "prose"
    parts: list[tuple[Any, str, tuple[IdentifiedCall, ...]]] = []
    if answer.thinking:
        parts.append(("thinking", answer.thinking, ()))
    if answer.text:
        parts.append((kind, answer.text, ()))
    if calls:
        parts.append(("tool_call", "".join(call_text(one.name, one.arguments) for one in calls), calls))
    segments = tuple(
        TurnSegment(
            number=number,
            kind=part,
            text=text,
            start=0,
            end=0,
            modes=(answer.mode,),
            reason=plans[part].reason if part in plans else recording.call.plan.reason,
            calls=made,
        )
        for number, (part, text, made) in enumerate(parts)
    )
    return Turn(text=answer.text if turn.answer is None else "", calls=calls, value=value), segments


def _calls(recording: Recording, answer: RemoteAnswer) -> Iterator[IdentifiedCall]:
    """Yields the validated calls of a turn, with ids of ours. Raises SchemaViolation."""
    turn, ids = recording.call.turn, call_ids(recording.id, recording.call.used_ids)
    assert turn is not None
    if answer.calls and turn.calls is None:
        raise SchemaViolation(answer.text, "the turn may call no tool, and the answer calls one", _NOT_KEPT)
    if len(answer.calls) > 1 and not turn.parallel:
        raise SchemaViolation(answer.text, f"the turn may make one call, and the answer makes {len(answer.calls)}")
    for made in answer.calls:
        assert turn.calls is not None
        try:
            arguments = json.loads(made.arguments or "{}")
        except ValueError as error:
            raise SchemaViolation(made.arguments, f"arguments of tool {made.name!r}: not JSON: {error}") from None
        found = turn.calls.parse(call_text(made.name, arguments))
        yield IdentifiedCall(id=next(ids), name=found.name, arguments=found.arguments)


def call_text(name: str, arguments: Any) -> str:
    """Returns a call as the JSON text that our own grammars write."""
    return json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"), ensure_ascii=False)


def _refused(recording: Recording, answer: RemoteAnswer, decoded: DecodeResult, error: SchemaViolation) -> Exception:
    """Returns the error of refused output: one failed attempt under "checked", else a violation, or a cut."""
    settings = recording.call.plan.settings
    checked = settings.guarantee == "checked"
    if checked:
        recording.guarantee = "checked"
    result = result_of_answer(recording, answer, decoded, None)
    if checked:
        error.result = result
        return failed_attempt(recording, decoded.stats, error)
    if error.hint is _CUT:
        return OutputCut(answer.pool, settings.max_tokens or 0, answer.text)
    found = SchemaViolation(error.text, error.cause, _NOT_KEPT)
    found.audit_id, found.result = recording.id, result
    return found


def result_of_answer(
    recording: Recording,
    answer: RemoteAnswer,
    decoded: DecodeResult,
    value: Any,
    segments: tuple[TurnSegment, ...] = (),
    choice: ScoredChoice | None = None,
) -> Result:
    """Returns the result of an answer, with what the recording has come to know."""
    return Result(
        text=answer.text,
        thinking=answer.thinking,
        answer=answer.text,
        value=value,
        valid=recording.valid,
        decoded=decoded,
        plan=recording.call.plan,
        audit_id=recording.id,
        notes=tuple(recording.notes),
        guarantee=recording.guarantee,
        choice=choice,
        segments=segments,
        spelling=Spelling((recording.text_of, recording.piece_of)),
        remote=used_of(answer),
    )


def _notes(recording: Recording, request: RemoteRequest, answer: RemoteAnswer) -> Iterator[str]:
    """Yields notes on everything that differs from what the caller asked for."""
    plan, seconds = recording.call.plan, answer.seconds
    yield from plan.notes
    if plan.settings.deadline is not None and seconds > plan.settings.deadline:
        yield f"deadline of {plan.settings.deadline:g} s missed: the call took {seconds:.2g} s"
    if answer.mode != request.mode:
        yield f"{request.mode} was planned; pool {answer.pool!r}, which answered, decodes in {answer.mode}"
    if recording.call.turn is None and plan.forecast is None:
        yield from without_part(plan.settings, plan.mode)
    if answer.cut:
        yield f"cut after {seconds:.2g} s by the seconds that were left to it"
    elif request.max_seconds is not None and seconds > request.max_seconds:
        yield (
            f"took {round(seconds, 3)} seconds where the session's budget left {request.max_seconds:g}: what a schema "
            "holds is not cut"
        )
    if answer.reported.output_tokens is None:
        yield "the server reported no usage: its output tokens are our own tokenizer's count, an estimate"
    if recording.call.kind == "choice":
        yield "the option was written, not scored: no log-probabilities of the others came with it"
