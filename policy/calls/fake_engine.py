"""An engine without a model, for users' tests: it returns scripted answers.

Knows the public engine, which it subclasses: prompts are tokenized, schemas compiled, outputs validated, spans and
records written as with a model; only the tokens come from a script. Does not know weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from math import log
from types import SimpleNamespace
from typing import Any, cast

from pydantic_core import to_jsonable_python

from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.output import Output
from trimode.engine.errors import TrimodeError
from trimode.engine.jobs import Update
from trimode.engine.models.checkpoint import locate
from trimode.engine.modes.sections import enter
from trimode.engine.options import SectionOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult, QuestionScores, ScoreResult, Section, Stats, TokenLogprobs
from trimode.engine.scoring import QuestionsRequest, ScoreRequest
from trimode.engine.token_engine import TokenEngine

from ..audit import Runtime
from ..decisions import DecisionQuestion
from ..grammar import COMPLETION_TOKENS, Matcher, TurnMatcher, Walker
from ..json_schema import canonical, texts_of
from ..schema import Turn, TurnTarget
from ..selection import Weights
from .call import Call
from .engine import Engine
from .recording import Recording
from .scorer import logprobs_request

NAME = "trimode-fake"
_LIKELY = 0.9
"""Probability of the candidate that a script names, or of the first candidate if it names none."""
Watch = Callable[[Update], None]


class ScriptError(TrimodeError):
    """The script of a FakeEngine does not fit what a step asks for."""


def in_turn(*answers: Any) -> Callable[[Call], Any]:
    """Returns a script that gives one answer for each call of a step, in order, then raises ScriptError."""
    left: Iterator[Any] = iter(answers)

    def answer(call: Call) -> Any:
        for found in left:
            return _resolved(found, call)
        raise ScriptError(f"step {call.step!r} was called more than {len(answers)} times; give in_turn() more answers")

    return answer


class FakeEngine(Engine):
    """An Engine that answers from `answers`, by name of step (`generate`, `stream`, ... for calls without one).

    An answer is the value that the step returns (text, a model, a dict, an option), an exception to raise, or a
    function of the `Call` that returns one of these. The default is a small value that fits the schema, the first
    option, or the step's name as text. A choice may also be answered by {option: probability}, and "decide" by a list
    of such answers, one for each question. To `token_logprobs` every token is certain. `calls`: the calls so
    far, in order. Each token counts as one forward pass.
    """

    answers: dict[str, Any]

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        checkpoint = locate(None)
        config = checkpoint.config()
        absent = SimpleNamespace(model=SimpleNamespace(config=config, adapter=True), close=lambda: None)
        super().__init__(cast(TokenEngine, absent), checkpoint.tokenizer(), checkpoint)
        self.answers = dict(answers or {})
        self.calls: list[Call] = []
        self._walker = Walker(self.tokenizer, config.eos_token_ids[0])

    def __repr__(self) -> str:
        return f"<FakeEngine answering {', '.join(self.answers) or 'by default'}; {len(self.calls)} calls so far>"

    @property
    def kernels(self) -> str:
        return "none (a FakeEngine computes nothing)"

    @property
    def graphs(self) -> str:
        return "off"

    @property
    def live(self) -> int:
        return 0

    @cached_property
    def weights(self) -> Weights:
        config = self.translator.config
        return Weights(name=config.architecture, modes=config.modes)

    @cached_property
    def runtime(self) -> Runtime:
        return Runtime(
            model=NAME,
            model_sha256="",
            tokenizer_sha256=self.checkpoint.tokenizer_sha256,
            device="none",
            dtype="none",
            kernels="none",
            exactness="not checked",
        )

    def token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        request = logprobs_request(prompt_ids, token_ids, top, cache_scope)
        best = tuple(((token, 0.0),)[: request.top] for token in request.tokens)
        logprobs = (0.0,) * len(request.tokens)
        return TokenLogprobs(logprobs=logprobs, top=best, stats=_stats(len(request.prompt), 0, 1))

    async def atoken_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        return self.token_logprobs(prompt_ids, token_ids, top, cache_scope=cache_scope)

    def _submit(self, recording: Recording, watch: Watch | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        request, call = recording.request, recording.call
        assert request is not None
        self.calls.append(call)
        try:
            answer = _resolved(self.answers.get(call.step, _DEFAULT), call)
            if isinstance(request, ScoreRequest):
                future.set_result(_scored(request, _probabilities(call, call.candidates, answer)))
            elif isinstance(request, QuestionsRequest):
                assert recording.asked is not None
                future.set_result(_decided(call, request, recording.asked.questions, answer))
            else:
                assert isinstance(request, DecodeRequest)
                future.set_result(self._written(request, self._text(call, request, answer), watch))
        except Exception as error:
            future.set_exception(error)
        return future

    def _text(self, call: Call, request: DecodeRequest, answer: Any) -> str:
        """Returns the answer as text that the schema accepts; without an answer, the grammar's short completion."""
        constraint = request.constraint
        if call.turn is not None and answer is not _DEFAULT:
            return _spoken(call.turn, call.step, answer)
        if constraint is None:
            text = call.step if answer is _DEFAULT else answer
            if not isinstance(text, str):
                raise ScriptError(f"step {call.step!r} returns text, and its answer is {answer!r}")
            return text
        if answer is _DEFAULT:
            return self.tokenizer.decode(constraint.completion(COMPLETION_TOKENS) or ())
        assert isinstance(constraint, Matcher)
        for text in texts_of(to_jsonable_python(answer), self.translator.enforced(call).schema.document):
            if self._walker.refused_at(constraint.fork(), text) is None:
                return text
        raise ScriptError(f"step {call.step!r}: its answer does not fit the schema: {answer!r}")

    def _written(self, request: DecodeRequest, text: str, watch: Watch | None) -> DecodeResult:
        """Returns the text as a decode result: one token per round and pass, cut at the request's limits."""
        ends = self.translator.config.eos_token_ids
        output = Output(request.max_tokens, request.stop, ends, self.tokenizer.decode)
        opening = [] if request.thinking is None else [request.thinking.end]
        tokens = [*opening, *self.tokenizer.encode(text), ends[0]]
        if request.constraint is not None and len(tokens) > request.max_tokens:
            raise ScriptError(f"{len(tokens)} tokens of answer do not fit max_tokens={request.max_tokens}: {text!r}")
        mode = request.options.mode
        sections = _sections(request, tokens)
        for passes, token in enumerate(tokens, start=1):
            section = next(sections)
            if isinstance(request.options, SectionOptions) and section not in (None, output.section):
                mode = enter(output, section, request.options)
            goes_on = output.commit(mode, [token], "c", forward_passes=1)
            if goes_on and passes == request.max_passes and request.constraint is None:
                output.give_up(mode, passes)
            if watch is not None:
                watch(Update(tuple(output.tokens), (), tuple(output.sections)))
            if output.finish is not None:
                break
        assert output.finish is not None
        return DecodeResult(
            token_ids=tuple(output.tokens),
            text=output.text,
            finish_reason=output.finish,
            rounds=tuple(output.rounds),
            stats=_stats(len(request.prompt), len(output.tokens), len(output.tokens)),
        )


_DEFAULT = object()
"""Marks a step for which the script has no answer."""


def _resolved(answer: Any, call: Call) -> Any:
    """Returns the script's answer to one call; raises it if it is an exception."""
    if callable(answer) and not isinstance(answer, type):
        answer = answer(call)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _spoken(turn: TurnTarget, step: str, answer: Any) -> str:
    """Returns a turn's text: of a text, one call or several, or a `Turn`."""
    if isinstance(answer, str):
        return answer
    said = answer.text if isinstance(answer, Turn) else ""
    calls = answer.calls if isinstance(answer, Turn) else answer if isinstance(answer, list | tuple) else [answer]
    plain = [to_jsonable_python(call) for call in calls]
    if turn.answer is not None and len(plain) == 1 and set(plain[0]) != {"name", "arguments"}:
        return canonical(plain[0])
    texts = [canonical({"name": call["name"], "arguments": call["arguments"]}) for call in plain]
    if len(texts) > 1 and (turn.format.between is None or not turn.parallel):
        raise ScriptError(f"step {step!r} makes one call in a turn, and its answer has {len(texts)}")
    written = turn.format.head + (turn.format.between or "").join(texts) + turn.format.tail if texts else ""
    return said + written


def _sections(request: DecodeRequest, tokens: Sequence[int]) -> Iterator[Section | None]:
    """Yields the section of each token of a turn, None for other calls. Raises ScriptError for a token that may not
    come there."""
    at = request.constraint
    gate = Gate(at.fork(), (), request.thinking) if isinstance(at, TurnMatcher) else None
    for number, token in enumerate(tokens):
        yield None if gate is None else gate.section
        if gate is None or number + 1 == len(tokens):
            continue
        if not gate.allows(token):
            raise ScriptError(f"the answer does not fit what the turn may hold, from its token {number} on")
        gate.token_budget = None
        gate.advance([token])


def _probabilities(call: Call, options: Sequence[str], answer: Any) -> list[float]:
    """Returns the candidates' probabilities: the script's {option: probability}, or high for the option it names."""
    plain = options[0] if answer is _DEFAULT else to_jsonable_python(answer)
    if isinstance(plain, dict) and set(plain) == set(options) and min(plain.values()) > 0:
        return [float(plain[option]) for option in options]
    if plain not in options:
        raise ScriptError(
            f"step {call.step!r} chooses one of {', '.join(options)}; its answer is {answer!r}, and should be one of "
            "them, or a probability above 0 for each"
        )
    others = (1 - _LIKELY) / max(1, len(options) - 1)
    return [_LIKELY if option == plain else others for option in options]


def _scored(request: ScoreRequest, probabilities: list[float]) -> ScoreResult:
    return ScoreResult(logprobs=tuple(log(p) for p in probabilities), stats=_stats(len(request.prompt), 0, 1))


def _decided(
    call: Call, request: QuestionsRequest, questions: Sequence[DecisionQuestion], answer: Any
) -> QuestionScores:
    """Returns the scores of a decision, whose script has one answer for each question, in order."""
    answers = [_DEFAULT] * len(questions) if answer is _DEFAULT else answer
    if not isinstance(answers, Sequence) or isinstance(answers, str) or len(answers) != len(questions):
        raise ScriptError(f"step {call.step!r} asks {len(questions)} questions; its answer should be a list of as many")
    pairs = zip(questions, answers, strict=True)
    scores = tuple(tuple(map(log, _probabilities(call, question.options, one))) for question, one in pairs)
    return QuestionScores(logprobs=scores, stats=_stats(len(request.prompt), 0, 1))


def _stats(prompt: int, tokens: int, passes: int) -> Stats:
    return Stats(
        prompt_tokens=prompt,
        cached_tokens=0,
        output_tokens=tokens,
        prefill_passes=0,
        forward_passes=passes,
        drafted=0,
        accepted=0,
        corrected=tokens,
        forced=0,
        repaired=0,
        seconds=0.0,
        prefill_seconds=0.0,
        kernels="none",
    )
