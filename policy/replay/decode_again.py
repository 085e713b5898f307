"""Replay: a recorded call decoded again, and compared round by round.

Knows records and an engine. Does not know files. A difference has one of two explanations: the engine is not equal to
the recorded one, and the differences are listed, or it is equal, and there is a bug.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any, Final, Literal, cast

from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError, TrimodeError
from trimode.engine.models.checkpoint import BUNDLED
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult, Round
from trimode.engine.scoring import Question, QuestionsRequest, ScoreRequest

from ..audit import CallRecord, RoundRecord, Runtime, asked_questions, is_decision, versions
from ..calls import Engine, RemoteEngine, candidates_of, decoded
from ..decisions import answered
from ..grammar import Matcher, TurnMatcher, relaxed, relaxed_turn
from ..schema import Schema, Target, TurnTarget, schema_of
from ..schema import turn_of as read_turn
from ..selection import OPTIONS
from ..turns import turn_matcher
from .recorded_options import by_tokens_alone, options_of, sections_of
from .replayed import Replay
from .servers import asked_again, revalidated

CHOICE: Final = "choice"
BUG: Final = "same inputs, different tokens: a bug"
NO_CONTENT: Final = "the record holds no token ids; record with content=True (or the content switch) to replay"
_FIELDS: Final = ("tokens", "origins", "mode", "section", "switch", "drafted", "rejected", "forward_passes", "fills")
_RUNTIME: Final = {
    "model_sha256": "weights",
    "tokenizer_sha256": "tokenizer",
    "adapter_sha256": "draft adapter",
    "device": "device",
    "hardware": "hardware",
    "dtype": "dtype",
    "kernels": "kernels",
    "quantize": "weights in eight bits",
}


class Engines:
    """Engines equal to the recorded ones, each loaded once.

    `model`, `adapter`: paths of the weights and of the draft adapter, if they are not the recorded ones; `device`,
    `kernels`: to be used instead of the recorded ones.
    """

    model: str | None
    device: str | None
    kernels: str | None
    adapter: str | None

    def __init__(
        self,
        model: str | None = None,
        device: str | None = None,
        kernels: str | None = None,
        adapter: str | None = None,
    ) -> None:
        self.model, self.device, self.kernels, self.adapter = model, device, kernels, adapter
        self._loaded: dict[tuple[str | None, ...], Engine] = {}

    def of(self, runtime: Runtime) -> Engine:
        """Returns the engine for a record's runtime. Raises CheckpointError or RequestError where it cannot be
        loaded."""
        source = self.model or (None if runtime.model == BUNDLED else runtime.model)
        device, kernels = self.device or runtime.device, self.kernels or runtime.kernels
        # Where the record has none, a published model loads without the one that comes with this package.
        adapter: str | Literal[False] = (self.adapter or runtime.adapter) if runtime.adapter else False
        key = (source, device, runtime.dtype, kernels, runtime.quantize, str(adapter))
        if key not in self._loaded:
            precision, _, head = runtime.quantize.partition("+")
            self._loaded[key] = Engine.load(
                source,
                adapter=adapter,
                device=device,
                dtype=runtime.dtype,
                kernels=kernels,
                quantize=None if precision == "no" else precision,
                quantize_head=bool(head),
            )
        return self._loaded[key]


def replay(record: CallRecord, engine: Engine | None) -> Replay:
    """Decodes the call again on `engine`. The prefix cache may make that faster, but never changes the tokens.

    A call that a server decoded is asked for again where `engine` is a remote one, else its output is validated again;
    for these alone `engine` may be None.
    """
    if (reason := nothing_to_replay(record)) is not None:
        return Replay(call=record.call, outcome="impossible", message=reason)
    if record.remote is not None:
        if isinstance(engine, RemoteEngine):
            return asked_again(record, record.remote, engine)
        return revalidated(record, record.remote)
    assert engine is not None
    causes = tuple(changed(record, engine.runtime))
    try:
        result = _decoded(record, engine)
    except TrimodeError as error:
        message = f"not decoded: {error}"
        return Replay(call=record.call, outcome="impossible", message="; ".join([message, *causes]), causes=causes)
    return compare(record, result, causes)


def _decoded(record: CallRecord, engine: Engine) -> DecodeResult:
    if record.options.get("mode") != CHOICE:
        return engine.tokens.decode(request_of(record, engine))
    end = engine.tokens.model.config.eos_token_ids[0]
    if is_decision(record):
        asked = questions_of(record)
        return answered(asked, engine.tokens.decode(asked), "", end)
    request = scoring_of(record, engine)
    return decoded(request, engine.tokens.decode(request), "", end)


def nothing_to_replay(record: CallRecord) -> str | None:
    """Returns why there is nothing to decode again, or None."""
    if record.remote is not None and record.finish_reason is not None:
        return None if record.has_content else NO_CONTENT
    if record.counts is None:
        return f"the call ended with {record.error} before there was any output"
    if not record.has_content:
        return NO_CONTENT
    if was_cut(record) and not record.token_ids:
        return "a session's budget of passes or seconds ended the call before its first token"
    if record.suffix_ids is None and record.options.get("mode") not in (*OPTIONS, CHOICE):
        return f"mode {record.options.get('mode')!r} is not one that this version replays"
    return None


def was_cut(record: CallRecord) -> bool:
    """Returns whether a limit of passes or seconds, which a replay does not have, ended the output."""
    return record.finish_reason == "length" and len(record.token_ids or ()) < record.max_tokens


def request_of(record: CallRecord, engine: Engine) -> DecodeRequest:
    """Returns the recorded request. Raises RequestError or SchemaError where `engine` cannot serve it."""
    turn = turn_of(record)
    return DecodeRequest(
        prompt=record.prompt_ids or (),
        options=options_of(record, engine.tokens.model.config) if turn is None else sections_of(record, turn),
        sampling=Sampling(**asdict(record.sampling)),
        max_tokens=len(record.token_ids or ()) if was_cut(record) else record.max_tokens,
        stop=record.stop,
        constraint=_constraint(record, turn, engine),
        thinking=None if record.thinking is None else Thinking(record.thinking.end, record.thinking.budget),
        lookup=record.lookup_ids or (),
    )


def _constraint(record: CallRecord, turn: TurnTarget | None, engine: Engine) -> Matcher | TurnMatcher | None:
    if turn is not None:
        return turn_matcher(engine.tokenizer, engine.grammars, turn)
    if record.schema_sha256 is None:
        return None
    target = target_of(record)
    return engine.grammars.matcher(relaxed(target).schema if record.guarantee == "checked" else target)


def turn_of(record: CallRecord) -> TurnTarget | None:
    """Returns what a recorded turn might hold; None for other calls."""
    if record.kind != "turn":
        return None
    turn = read_turn(cast(dict[str, Any], record.schema), record.schema_formats)
    if turn is None:
        raise RequestError(f"schema={record.schema!r}: expected what a turn may hold")
    return relaxed_turn(turn)[0] if record.guarantee == "checked" else turn


def target_of(record: CallRecord) -> Target:
    """Returns the schema or text format that constrained the output."""
    document = cast(dict[str, Any], record.schema)
    is_text = record.schema_formats is None
    return schema_of(document) if is_text else Schema(document, formats=cast(Any, record.schema_formats))


def scoring_of(record: CallRecord, engine: Engine) -> ScoreRequest:
    """Returns the request of a choice. Raises StepError where the record's schema lists no strings."""
    texts = candidates_of(target_of(record))
    candidates = tuple(tuple(engine.tokenizer.encode(text)) for text in texts)
    return ScoreRequest(prompt=record.prompt_ids or (), candidates=candidates)


def questions_of(record: CallRecord) -> QuestionsRequest:
    """Returns the request of a decision, from the token ids in its record."""
    questions = tuple(Question(tokens=one.tokens, candidates=one.candidates) for one in asked_questions(record))
    return QuestionsRequest(prompt=record.prompt_ids or (), questions=questions)


def changed(record: CallRecord, runtime: Runtime) -> Iterator[str]:
    """Yields a description of each difference between the present engine and the recorded one."""
    if was_cut(record):
        yield "cut by a session's budget of passes or seconds then, by max_tokens now"
    for field, name in _RUNTIME.items():
        then, now = getattr(record.runtime, field), getattr(runtime, field)
        if then != now:
            yield f"{name}: {_short(then)} then, {_short(now)} now"
    for package, now in versions().items():
        then = record.versions.get(package, "not recorded")
        if then != now:
            yield f"version of {package}: {then} then, {now} now"


def compare(record: CallRecord, result: DecodeResult, causes: Sequence[str]) -> Replay:
    """Compares a decoded call with its record. Of older records whose mode switched in mid-call, only tokens are
    compared."""
    tokens_only = by_tokens_alone(record)
    found = (_first_token if tokens_only else _first_difference)(record.rounds, result.rounds)
    same_ids = record.token_ids == result.token_ids and record.finish_reason == result.finish_reason
    if same_ids and found is None:
        limit = "; by tokens alone: the record does not say with what options modes took over" if tokens_only else ""
        return Replay(call=record.call, outcome="same", message=f"{len(result.token_ids)} tokens, bit for bit{limit}")
    if found is None:
        found = (len(record.rounds), "finish_reason", str(record.finish_reason), str(result.finish_reason))
    number, field, then, now = found
    why = "; ".join(causes) or (BUG if not same_ids else "same inputs, another path: a bug")
    what = "the same ids by another path" if same_ids else "other tokens"
    return Replay(
        call=record.call,
        outcome="path" if same_ids else "different",
        message=f"{what}, from round {number}: {field} was {then}, is {now} ({why})",
        round=number,
        field=field,
        then=then,
        now=now,
        causes=tuple(causes),
    )


def _first_difference(then: Sequence[RoundRecord], now: Sequence[Round]) -> tuple[int, str, str, str] | None:
    for number, (old, new) in enumerate(zip_longest(then, now)):
        if old is None or new is None:
            return number, "rounds", str(len(then)), str(len(now))
        for field in _FIELDS:
            before, after = getattr(old, field), getattr(new, field)
            if field == "rejected":
                after = tuple((rejected.token, rejected.reason) for rejected in new.rejected)
            if before != after:
                return number, field, str(before), str(after)
    return None


def _first_token(then: Sequence[RoundRecord], now: Sequence[Round]) -> tuple[int, str, str, str] | None:
    """Returns the first recorded round whose tokens are not those of the output at the same positions."""
    output, at = [token for round_ in now for token in round_.tokens], 0
    for number, old in enumerate(then):
        tokens = old.tokens or ()
        if (found := tuple(output[at : at + len(tokens)])) != tokens:
            return number, "tokens", str(tokens), str(found)
        at += len(tokens)
    return None if at == len(output) else (len(then), "tokens", "()", str(tuple(output[at:])))


def _short(value: str) -> str:
    """Returns the first characters of a digest, and anything else in full."""
    return f"{value[:12]}..." if len(value) == 64 else value or "not recorded"
