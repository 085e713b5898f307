"""Turns the engine's result into a `Result`: the parsed value, the validators' verdict, and all notes.

Knows calls and their recordings, engine results and the translator. Does not know decoding, spans or files.
"""

from __future__ import annotations

import json
from typing import Any

from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult, QuestionScores, ScoreResult, Stats
from trimode.engine.scoring import QuestionsRequest, ScoreRequest

from ..decisions import answer_lines, answered, decision_of
from ..errors import Attempt, CheckFailed, SchemaViolation
from ..grammar import Matcher, TurnMatcher
from ..remote import RemoteRequest
from ..schema import TextTarget
from ..selection import without_part
from ..telemetry import Spelling
from ..turns import TurnSegment, part_of
from .call import Call
from .choice import decoded, unused
from .recording import Recording
from .result import Result, ScoredChoice
from .translator import Translator

Found = DecodeResult | ScoreResult | QuestionScores
"""What the engine returns for a recorded request."""


def finished(translator: Translator, recording: Recording, found: Found, has_adapter: bool) -> Result:
    """Returns the result of a recorded call and fills in the recording.

    Raises SchemaViolation if finished output violates its schema, CheckFailed if that happens under "checked".
    """
    if isinstance(found, ScoreResult):
        return _chosen(translator, recording, found)
    if isinstance(found, QuestionScores):
        return _decided(translator, recording, found)
    request, schema = recording.request, recording.call.schema
    assert isinstance(request, DecodeRequest)
    recording.result = found
    _observe(recording.call, found)
    recording.notes += _notes(recording, request, found, has_adapter)
    held = schema is not None or (recording.call.turn is not None and recording.call.turn.constrains)
    recording.valid = False if held and found.finish_reason == "stop" else None
    value, segments = _value(translator, recording, request, found)
    return _result(recording, found, value, *_parts(translator, request, found), segments=segments)


def _observe(call: Call, found: DecodeResult) -> None:
    """Tells the call's policies what they may learn from: a turn's, of each kind of its segments."""
    if call.turn is None:
        call.plan.policy.observe(call.plan, found)
    for kind, plan in call.segments.items():
        if (part := part_of(found, kind)) is not None:
            plan.policy.observe(plan, part)


def _chosen(translator: Translator, recording: Recording, scored: ScoreResult) -> Result:
    """Returns the result of a choice step."""
    call, request = recording.call, recording.request
    assert isinstance(request, ScoreRequest)
    assert call.schema is not None
    choice = ScoredChoice(options=call.candidates, logprobs=scored.logprobs, stats=scored.stats)
    found = decoded(request, scored, choice.text, translator.config.eos_token_ids[0])
    recording.result, recording.valid, recording.logprobs = found, True, scored.logprobs
    recording.notes += unused(call.plan.settings) + _overrun(recording, found)
    value = _chosen_value(recording, found, choice)
    return _result(recording, found, value, None, found.text, choice)


def _decided(translator: Translator, recording: Recording, scored: QuestionScores) -> Result:
    """Returns the result of a decision, whose value is the `Decision`."""
    request, asked = recording.request, recording.asked
    assert isinstance(request, QuestionsRequest)
    assert asked is not None
    notes = unused(recording.call.plan.settings)
    decision = decision_of(asked, scored, recording.id, [*recording.notes, *notes])
    found = answered(request, scored, answer_lines(asked, scored), translator.config.eos_token_ids[0])
    recording.result, recording.valid = found, True
    recording.logprobs = [logprob for logprobs in scored.logprobs for logprob in logprobs]
    recording.notes += notes + _overrun(recording, found)
    return _result(recording, found, decision, None, found.text)


def _chosen_value(recording: Recording, found: DecodeResult, choice: ScoredChoice) -> Any:
    schema = recording.call.schema
    assert schema is not None
    try:
        return schema.parse(choice.text if isinstance(schema, TextTarget) else json.dumps(choice.text))
    except SchemaViolation as error:  # not a CheckFailed, because another seed would not change a choice
        recording.valid, error.audit_id = False, recording.id
        error.result = _result(recording, found, None, None, found.text, choice)
        raise


def _value(
    translator: Translator, recording: Recording, request: DecodeRequest, found: DecodeResult
) -> tuple[Any, tuple[TurnSegment, ...]]:
    """Returns the parsed value, or the text without a schema, and the segments of a turn; attaches the result to the
    error that it raises."""
    call, segments = recording.call, tuple[TurnSegment, ...]()
    try:
        segments = translator.segments(call, found, recording.id) if call.turn is not None else ()
        value, recording.valid, notes = translator.value(call, request, found, segments)
    except SchemaViolation as error:
        error.audit_id = recording.id
        error.result = _result(recording, found, None, *_parts(translator, request, found))
        if recording.call.plan.settings.guarantee != "checked":
            raise
        recording.guarantee = (
            "checked"  # even if the grammar enforces the whole schema: the type has rules in its own code
        )
        raise failed_attempt(recording, found.stats, error) from None
    recording.notes += notes
    return (found.text if call.schema is None and call.turn is None else value), segments


def _parts(translator: Translator, request: DecodeRequest, found: DecodeResult) -> tuple[str | None, str]:
    """Returns the thinking (None where none was requested) and the answer."""
    return (None, found.text) if request.thinking is None else translator.parts(request.thinking, found.token_ids)


def failed_attempt(recording: Recording, stats: Stats, error: SchemaViolation) -> CheckFailed:
    """Returns the violation, with its result, as one failed attempt under "checked"."""
    settings = recording.call.plan.settings
    attempt = Attempt(
        seed=settings.seed or 0,
        temperature=settings.temperature or 0.0,
        text=error.text,
        violation=error.cause,
        audit_id=recording.id,
        stats=stats,
    )
    failed = CheckFailed(error.text, error.cause, [attempt])
    failed.result = error.result
    return failed


def _result(
    recording: Recording,
    found: DecodeResult,
    value: Any,
    thinking: str | None,
    answer: str,
    choice: ScoredChoice | None = None,
    segments: tuple[TurnSegment, ...] = (),
) -> Result:
    return Result(
        text=found.text,
        thinking=thinking,
        answer=answer,
        value=value,
        valid=recording.valid,
        decoded=found,
        plan=recording.call.plan,
        audit_id=recording.id,
        notes=tuple(recording.notes),
        guarantee=recording.guarantee,
        choice=choice,
        segments=segments,
        prompt_ids=()
        if recording.request is None or isinstance(recording.request, RemoteRequest)
        else recording.request.prompt,
        spelling=Spelling((recording.text_of, recording.piece_of)),
    )


def _notes(recording: Recording, request: DecodeRequest, found: DecodeResult, has_adapter: bool) -> list[str]:
    """Returns notes on everything that differs from what the caller asked for."""
    call, notes = recording.call, list(recording.call.plan.notes)
    deadline, took = call.plan.settings.deadline, found.stats.seconds
    if deadline is not None and took > deadline:
        notes.append(f"deadline of {deadline:g} s missed: the call took {took:.2g} s")
    if {round_.mode for round_ in found.rounds} & {"linear_spec", "quadratic_spec"} and not has_adapter:
        notes.append("drafts used the base weights: this checkpoint has no linear_spec_lora/ adapter")
    # A controller or forecast sets modes and options itself, and a turn has several modes.
    if call.plan.controller is None and call.plan.forecast is None and call.turn is None:
        notes += without_part(call.plan.settings, call.plan.mode)
    notes += _grammar_notes(request, found)
    if call.schema is not None:
        notes += _overrun(recording, found)
    elif found.finish_reason == "length" and len(found.token_ids) < request.max_tokens:
        notes.append(f"cut after {len(found.token_ids)} tokens by the passes or seconds that were left to it")
    return notes


def _grammar_notes(request: DecodeRequest, found: DecodeResult) -> list[str]:
    """Returns notes on recompilations and known completions."""
    grammar = request.constraint.grammar if isinstance(request.constraint, Matcher) else None
    turn = request.constraint.grammar.grammars if isinstance(request.constraint, TurnMatcher) else ()
    renewed = sum(one.recompilations for one in (*turn, *((grammar,) if grammar else ())))
    notes = [f"the grammar was compiled anew {renewed} times: its lexer was used up"] if renewed else []
    constrained = found.token_ids
    if request.thinking is not None and request.thinking.end in constrained:
        constrained = constrained[constrained.index(request.thinking.end) + 1 :]
    end = None if grammar is None else grammar.failure(constrained)
    if end is not None:
        notes.append(f"behind {end[0]} tokens the known ending was written: {end[1]}, also of a grammar compiled anew")
    elif found.forced_close:
        notes.append(f"ended by force: another choice had left no known ending within max_tokens={request.max_tokens}")
    return notes


def _overrun(recording: Recording, found: DecodeResult) -> list[str]:
    """Returns notes on a session budget that was exceeded, because constrained output is always completed."""
    call, passes, seconds = recording.call, found.stats.prefill_passes + found.stats.forward_passes, found.stats.seconds
    spent = (("passes", passes, call.max_passes), ("seconds", round(seconds, 3), call.max_seconds))
    return [
        f"took {took} {what} where the session's budget left {left:g}: what a schema holds is not cut"
        for what, took, left in spent
        if left is not None and took > left
    ]
