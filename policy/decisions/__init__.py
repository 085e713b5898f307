"""Decisions: questions about one input, how they are put to a model, and their answers.

Knows questions, messages as plain values, and the engine's scores. Does not know calls or engines. Start with
`questions.py`, then `asked.py`.
"""

from __future__ import annotations

from .asked import Asked, answer_lines, answered, common_beginning, decision_of, with_question
from .questions import Calibration, Decision, DecisionAnswer, DecisionQuestion, answer_of, checked_questions

__all__ = [
    "Asked", "Calibration", "Decision", "DecisionAnswer", "DecisionQuestion", "answer_lines", "answer_of", "answered",
    "checked_questions", "common_beginning", "decision_of", "with_question",
]  # fmt: skip
