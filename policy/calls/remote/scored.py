"""Turns a server's scores into a `Result`: a choice with all its log-probabilities, or a decision.

Knows calls, their recordings and answers. Does not know HTTP, or how a server scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trimode.engine.result import DecodeResult

from ...decisions import Asked, Decision, answer_of
from ...remote import RemoteAnswer, ReportedStats, Scores
from ...schema import TextTarget
from ..choice import unused
from ..recording import Recording
from ..result import Result, ScoredChoice
from .finish import result_of_answer


def scored(recording: Recording, answer: RemoteAnswer) -> Result:
    """Returns the result, and fills in the recording."""
    scores, asked = answer.scores, recording.asked
    assert scores is not None
    decoded = DecodeResult(
        token_ids=(), text=answer.text, finish_reason=answer.finish_reason, rounds=(), stats=stats_of(answer, scores)
    )
    recording.notes += [*answer.notes, *_notes(recording, answer, scores)]
    recording.valid = True
    recording.logprobs = [logprob for logprobs in scores.logprobs for logprob in logprobs]
    if asked is not None:
        decision = _decision(recording, asked, scores, decoded)
        return result_of_answer(recording, answer, decoded, decision)
    choice = ScoredChoice(
        options=recording.call.candidates, logprobs=scores.logprobs[0], stats=decoded.stats, how=scores.how
    )
    return result_of_answer(recording, answer, decoded, _value(recording, choice), choice=choice)


def stats_of(answer: RemoteAnswer, scores: Scores) -> ReportedStats:
    """Returns the counts of scoring: tokens of the prompt, by the server's tokenizer, and none written."""
    return ReportedStats(
        prompt_tokens=scores.prompt_tokens,
        output_tokens=0,
        seconds=answer.seconds,
        kernels=f"{answer.kind} {answer.version or ''}".strip(),
    )


def _decision(recording: Recording, asked: Asked, scores: Scores, decoded: DecodeResult) -> Decision:
    pairs = zip(asked.questions, scores.logprobs, strict=True)
    return Decision(
        answers=tuple(answer_of(question, logprobs, asked.calibration) for question, logprobs in pairs),
        calibration=asked.calibration,
        question_tokens=scores.question_tokens,
        stats=decoded.stats,
        audit_id=recording.id,
        notes=tuple(recording.notes),
    )


def _value(recording: Recording, choice: ScoredChoice) -> Any:
    schema = recording.call.schema
    assert schema is not None
    return schema.parse(choice.text if isinstance(schema, TextTarget) else json.dumps(choice.text))


def _notes(recording: Recording, answer: RemoteAnswer, scores: Scores) -> Iterator[str]:
    plan = recording.call.plan
    yield from unused(plan.settings if plan.named else replace(plan.settings, mode=None))
    yield (
        f"log-probabilities are those of pool {answer.pool!r}, by {scores.how}: of going on with an option, in the "
        "tokens that the server makes of it alone; that the answer ends there is not scored"
    )
    left = recording.call.max_seconds
    if left is not None and answer.seconds > left:
        yield f"took {answer.seconds:.3g} seconds where the session's budget left {left:g}: scoring is not cut"
