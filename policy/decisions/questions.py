"""Questions about a text and their answers: yes or no, one of several options, a level of a scale.

Knows texts, log-probabilities and how a question is put to a model. Does not know tokens or engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Final, Literal

from trimode.engine.errors import RequestError
from trimode.engine.result import Stats
from trimode.engine.scoring import QUESTIONS

from ..conversation import checked_text
from ..errors import shown

QuestionKind = Literal["predicate", "choice", "score"]
OPTIONS_PER_QUESTION: Final = 255
YES: Final = "Yes"
NO: Final = "No"
_ASKS: Final[dict[QuestionKind, str]] = {
    "predicate": f"Answer with {YES} or {NO} alone.",
    "choice": "Answer with one of these options alone:",
    "score": "Answer with the number of one of these levels alone:",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionQuestion:
    """One question; `predicate`, `choice` and `score` make one.

    `options`: what the model chooses from, as it would write it, in order; `descriptions`: what each of them means, as
    long as `options`, empty where nothing is said.
    """

    kind: QuestionKind
    instructions: str
    options: tuple[str, ...]
    descriptions: tuple[str, ...]
    name: str | None = None

    @classmethod
    def predicate(
        cls, instructions: str, *, true: str = "", false: str = "", name: str | None = None
    ) -> DecisionQuestion:
        """Asks whether something is true; `true` and `false` describe when it is and when not."""
        return _checked("predicate", instructions, {YES: true, NO: false}.items(), name)

    @classmethod
    def choice(
        cls, instructions: str, options: Sequence[str] | Mapping[str, str], *, name: str | None = None
    ) -> DecisionQuestion:
        """Asks for one of 2 to 255 options: texts, or texts with a description each."""
        if isinstance(options, str | bytes) or not isinstance(options, Iterable):
            raise RequestError(f"options={shown(options)}: expected a list of strings, or descriptions by option")
        pairs = options.items() if isinstance(options, Mapping) else [(option, "") for option in options]
        return _checked("choice", instructions, pairs, name)

    @classmethod
    def score(cls, instructions: str, levels: Sequence[str], *, name: str | None = None) -> DecisionQuestion:
        """Asks for a level of a scale, of which `levels` describes each, the lowest first; the lowest counts 0."""
        if isinstance(levels, str | bytes | Mapping) or not isinstance(levels, Iterable):
            raise RequestError(f"levels={shown(levels)}: expected a list of strings, the lowest level first")
        return _checked("score", instructions, [(str(at), level) for at, level in enumerate(levels)], name)

    @property
    def text(self) -> str:
        """The question as the model reads it."""
        lines = [self.instructions, _ASKS[self.kind]]
        for option, description in zip(self.options, self.descriptions, strict=True):
            if description or self.kind != "predicate":
                lines.append(f"{option}: {description}" if description else option)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How log-probabilities become shares, fitted on answers that are known (docs/decisions.md).

    `temperature` divides them. Of predicates, the difference of yes and no is then taken times `slope` plus `offset`
    (Platt's line). Raises RequestError for a temperature that is not above 0 and at most 1000, and for other values.
    """

    temperature: float = 1.0
    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "slope", "offset"):
            given: Any = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= _MOST:
                raise RequestError(f"{name}={shown(given)}: expected a number, at most {_MOST}")
        if self.temperature < _LEAST:
            raise RequestError(f"temperature={self.temperature!r}: expected a number from {_LEAST} to {_MOST}")


_LEAST: Final = 1e-6
"""Below it, differences of log-probabilities overflow."""
_MOST: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionAnswer:
    """The answer to a question. `logprobs`: of each option, in nats, that the model at temperature 1 goes on with it;
    `probabilities`: the options' shares by the decision's calibration, which sum to 1.
    """

    question: DecisionQuestion
    logprobs: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def option(self) -> str:
        """The likeliest option, the first one on a tie; of a predicate "Yes" or "No", of a score its number."""
        return self.question.options[self.probabilities.index(self.confidence)]

    @property
    def confidence(self) -> float:
        """The probability of the likeliest option; docs/decisions.md says how far to trust it."""
        return max(self.probabilities)

    @property
    def probability(self) -> float:
        """The probability of yes. Raises RequestError for a question that is no predicate."""
        if self.question.kind != "predicate":
            raise RequestError(f"probability of a {self.question.kind} question: expected a predicate")
        return self.probabilities[0]

    @property
    def score(self) -> float:
        """The mean of the levels, counted from 0, by their probabilities. Raises RequestError for other questions."""
        if self.question.kind != "score":
            raise RequestError(f"score of a {self.question.kind} question: expected one with levels")
        return sum(level * probability for level, probability in enumerate(self.probabilities))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Answers in the order of the questions. `question_tokens`: tokens of all questions, each counted once, after those
    of the prompt, which `stats` counts. `notes`: how the prompt differs from the input.
    """

    answers: tuple[DecisionAnswer, ...]
    calibration: Calibration
    question_tokens: int
    stats: Stats
    audit_id: str
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> DecisionAnswer:
        """Returns the answer to the question of that name. Raises KeyError."""
        for answer in self.answers:
            if answer.question.name == name:
                return answer
        raise KeyError(name)


def answer_of(question: DecisionQuestion, logprobs: Sequence[float], calibration: Calibration) -> DecisionAnswer:
    """Returns the answer: shares in proportion to exp(log-probability), as `calibration` corrects it."""
    scores = [logprob / calibration.temperature for logprob in logprobs]
    if question.kind == "predicate":
        scores = [calibration.slope * (scores[0] - scores[1]) + calibration.offset, 0.0]
    top = max(scores)
    weights = [exp(score - top) for score in scores]
    shares = tuple(weight / sum(weights) for weight in weights)
    return DecisionAnswer(question=question, logprobs=tuple(logprobs), probabilities=shares)


def checked_questions(questions: Any) -> tuple[DecisionQuestion, ...]:
    """Returns the questions. Raises RequestError unless they are 1 to 400 questions whose names differ."""
    if isinstance(questions, str | bytes | Mapping) or not isinstance(questions, Iterable):
        raise RequestError(f"questions={shown(questions)}: expected a list of DecisionQuestion")
    found = tuple(questions)
    wrong = next((one for one in found if not isinstance(one, DecisionQuestion)), None)
    if wrong is not None:
        raise RequestError(f"questions holds {shown(wrong)}: expected a DecisionQuestion, such as .predicate('Is it?')")
    if not 1 <= len(found) <= QUESTIONS:
        raise RequestError(f"{len(found)} questions: expected 1 to {QUESTIONS}")
    names = [question.name for question in found if question.name is not None]
    if len(set(names)) < len(names):
        raise RequestError(f"questions of the same name: {shown(sorted(names))}; give each its own, or none")
    return found


def _checked(kind: QuestionKind, instructions: Any, options: Iterable[tuple[Any, Any]], name: Any) -> DecisionQuestion:
    pairs = [(checked_text(option, "option"), checked_text(what, "description")) for option, what in options]
    labels = [option for option, _ in pairs]
    if not checked_text(instructions, "instructions").strip():
        raise RequestError("instructions are empty: say what is asked")
    if not isinstance(name, str | None):
        raise RequestError(f"name={shown(name)}: expected a string or None")
    if (
        not 2 <= len(labels) <= OPTIONS_PER_QUESTION
        or len(set(labels)) < len(labels)
        or not all(map(str.strip, labels))
    ):
        what = "levels" if kind == "score" else "options"
        raise RequestError(f"{what}={shown(labels)}: expected 2 to {OPTIONS_PER_QUESTION} different, non-empty strings")
    return DecisionQuestion(
        kind=kind,
        instructions=instructions,
        options=tuple(labels),
        descriptions=tuple(what for _, what in pairs),
        name=name,
    )
