"""Texts or tokens to be scored as what comes after a prompt, and their scores.

Knows plain values. Does not know how a server scores. Nothing is written: a score is the log-probability, in nats, that
the model at temperature 1 goes on with exactly these tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TopTokens = tuple[tuple[int, float], ...]
"""The likeliest tokens at one place, as pairs of id and log-probability, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """`options` that exclude each other, each to be scored after the request's prompt and, of a decision, `question`;
    or the given `tokens`, with the `top` likeliest tokens at the place of each."""

    options: tuple[str, ...] = ()
    question: str = ""
    tokens: tuple[int, ...] = ()
    top: int = 0

    def document(self) -> dict[str, Any]:
        """The same as JSON, without what is not given."""
        found = {"options": list(self.options), "question": self.question, "tokens": list(self.tokens), "top": self.top}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Scored:
        """Returns what `document` was made of."""
        lists = {name: tuple(document.get(name, ())) for name in ("options", "tokens")}
        return cls(**lists, question=document.get("question", ""), top=document.get("top", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """`logprobs`: for each `Scored` one for each of its options, or of its tokens; `top`: for each of its tokens.

    `prompt_tokens`: those that all prompts begin with; `question_tokens`: those after them, of all questions. `how`: by
    what means of the server's API.
    """

    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    how: str
    question_tokens: int = 0
    top: tuple[TopTokens, ...] = ()
