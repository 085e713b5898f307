"""Questions as they were put to a model: in messages, as tokens after one shared prompt, and its scores as an output.

Knows questions, messages, token ids and scores. Does not know calls, or how questions are scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from trimode.engine.result import DecodeResult, QuestionScores, Round
from trimode.engine.scoring import Question, QuestionsRequest

from .questions import Calibration, Decision, DecisionQuestion, answer_of


@dataclass(frozen=True)
class Asked:
    """The questions of one call as put to the model: what its record keeps in place of a schema. `tokens`: of each
    question; none where a server makes them."""

    questions: tuple[DecisionQuestion, ...]
    tokens: tuple[Question, ...]
    calibration: Calibration

    @cached_property
    def document(self) -> dict[str, Any]:
        """The questions as JSON, with their token ids where they are known, from which a replay asks them again."""
        ids: list[dict[str, Any]] = [
            {"tokens": list(one.tokens), "candidates": [list(each) for each in one.candidates]} for one in self.tokens
        ]
        return {
            "calibration": asdict(self.calibration),
            "questions": [
                {
                    "kind": question.kind,
                    "name": question.name,
                    "text": question.text,
                    "options": list(question.options),
                    **tokens,
                }
                for question, tokens in zip(self.questions, ids or [{}] * len(self.questions), strict=True)
            ],
        }

    @cached_property
    def sha256(self) -> str:
        return sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()


def common_beginning(prompts: Sequence[list[int]]) -> list[int]:
    """Returns the tokens that all prompts begin with: those that the first and the last in order share."""
    first, last = min(prompts), max(prompts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[
        : next((at for at, (a, b) in pairs if a != b), len(first))
    ]  # the first is shorter if it begins the last


def with_question(messages: Sequence[Mapping[str, Any]], text: str) -> tuple[Mapping[str, Any], ...]:
    """Returns the messages with a question at their end: in the last one if a user's, as templates want turns."""
    last = messages[-1]
    if last["role"] == "user":
        return (*messages[:-1], {**last, "content": f"{last['content']}\n\n{text}"})
    return (*messages, {"role": "user", "content": text})


def decision_of(told: Asked, scored: QuestionScores, audit_id: str, notes: Sequence[str]) -> Decision:
    """Returns the answers."""
    pairs = zip(told.questions, scored.logprobs, strict=True)
    answers = tuple(answer_of(question, logprobs, told.calibration) for question, logprobs in pairs)
    return Decision(
        answers=answers,
        calibration=told.calibration,
        question_tokens=sum(len(question.tokens) for question in told.tokens),
        stats=scored.stats,
        audit_id=audit_id,
        notes=tuple(notes),
    )


def answered(request: QuestionsRequest, scored: QuestionScores, text: str, end: int) -> DecodeResult:
    """Returns the answers as an output: each likeliest candidate's tokens and an end token, all of provenance "c"."""
    tokens: list[int] = []
    for question, logprobs in zip(request.questions, scored.logprobs, strict=True):
        tokens += (*question.candidates[logprobs.index(max(logprobs))], end)
    made = Round(
        mode="choice", tokens=tuple(tokens), origins="c" * len(tokens), forward_passes=scored.stats.forward_passes
    )
    return DecodeResult(
        token_ids=made.tokens,
        text=text,
        finish_reason="stop",
        rounds=(made,),
        stats=replace(scored.stats, output_tokens=len(tokens), corrected=len(tokens)),
    )


def answer_lines(told: Asked, scored: QuestionScores) -> str:
    """Returns the options that the model itself finds likeliest, one a line: the text of the output."""
    pairs = zip(told.questions, scored.logprobs, strict=True)
    return "\n".join(question.options[logprobs.index(max(logprobs))] for question, logprobs in pairs)
