"""Requests that decode nothing: given tokens are read in causal passes, and their probabilities come back.

Knows token ids. Does not know the model. All of them are at temperature 1, over the vocabulary without banned ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from .errors import RequestError
from .request import Sampling
from .result import QuestionScores, ScoreResult, Stats, TokenLogprobs

Ids = tuple[int, ...]
TOP: Final = 20
"""Maximum number of alternatives to a token whose log-probabilities are given."""
QUESTIONS: Final = 400
"""Maximum number of questions about one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceOptions:
    """Whole answers, in token ids, scored in parallel; the likeliest one is the output."""

    mode: ClassVar[Literal["choice"]] = "choice"
    candidates: tuple[Ids, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """Questions about one prompt, scored in parallel; the likeliest candidate of each is its answer."""

    mode: ClassVar[Literal["choice"]] = "choice"
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(ABC):
    """A `prompt` and what is read after it. `cache_scope`: as in `DecodeRequest`."""

    prompt: Ids
    cache_scope: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError("prompt=(): expected at least one token")

    @property
    def sampling(self) -> Sampling:
        return Sampling()

    @property
    def stop(self) -> tuple[str, ...]:
        return ()

    @property
    @abstractmethod
    def read(self) -> Sequence[Ids]:
        """Token ids read after the prompt, each sequence on its own."""

    @property
    def output_positions(self) -> int:
        """Positions used after the prompt."""
        return max(map(len, self.read))

    @property
    def cached(self) -> Ids:
        """Tokens after the prompt whose keys and values are cached."""
        return ()

    @property
    def cached_positions(self) -> int:
        return len(self.cached)

    @abstractmethod
    def result(self, found: Any, stats: Stats) -> Any:
        """Returns the result, from what the mode returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest(Scoring):
    """Candidates, in token ids, to be scored as the whole answer to `prompt`."""

    candidates: tuple[Ids, ...]

    def __post_init__(self) -> None:
        Scoring.__post_init__(self)
        if not self.candidates or not all(self.candidates):
            raise RequestError(f"candidates={self.candidates!r}: expected non-empty strings")

    @property
    def options(self) -> ChoiceOptions:
        return ChoiceOptions(candidates=self.candidates)

    @property
    def first_options(self) -> ChoiceOptions:
        return self.options

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest candidate, with its end token."""
        return self.output_positions + 1

    @property
    def read(self) -> Sequence[Ids]:
        return self.candidates

    def result(self, found: Any, stats: Stats) -> ScoreResult:
        return ScoreResult(logprobs=found, stats=stats)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobsRequest(Scoring):
    """Tokens that follow `prompt`, each to be scored after all before it, with its `top` likeliest alternatives."""

    tokens: Ids
    top: int = 0

    def __post_init__(self) -> None:
        Scoring.__post_init__(self)
        if not self.tokens:
            raise RequestError("token_ids=(): expected at least one token")
        if isinstance(self.top, bool) or not isinstance(self.top, int) or not 0 <= self.top <= TOP:
            raise RequestError(f"top={self.top!r}: expected a whole number from 0 to {TOP}")

    @property
    def read(self) -> Sequence[Ids]:
        return (self.tokens,)

    @property
    def cached(self) -> Ids:
        return self.tokens[:-1]

    def result(self, found: Any, stats: Stats) -> TokenLogprobs:
        logprobs, top = found
        return TokenLogprobs(logprobs=logprobs, top=top, stats=stats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`tokens` that continue the prompt, and the candidates for what comes next, of which the model chooses one."""

    tokens: Ids
    candidates: tuple[Ids, ...]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise RequestError("a question without tokens: expected at least one")
        if len(set(self.candidates)) < max(2, len(self.candidates)) or not all(self.candidates):
            raise RequestError("candidates of a question: expected two or more different ones, none of them empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionsRequest(Scoring):
    """Questions that are read independently of each other after the one `prompt`."""

    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        Scoring.__post_init__(self)
        if not 1 <= len(self.questions) <= QUESTIONS:
            raise RequestError(f"{len(self.questions)} questions: expected 1 to {QUESTIONS}")

    @property
    def options(self) -> QuestionOptions:
        return QuestionOptions(questions=self.questions)

    @property
    def first_options(self) -> QuestionOptions:
        return self.options

    @property
    def max_tokens(self) -> int:
        """Tokens of all answers at most, each with an end token."""
        return sum(1 + max(map(len, question.candidates)) for question in self.questions)

    @property
    def read(self) -> Sequence[Ids]:
        return [
            question.tokens + max(question.candidates, key=len) for question in self.questions
        ]  # the longest of each question, because positions are counted

    def result(self, found: Any, stats: Stats) -> QuestionScores:
        return QuestionScores(logprobs=found, stats=stats)
