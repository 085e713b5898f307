"""Translates a resolved call into a request in token ids, and the decoded tokens back into text and value.

Knows the tokenizer, grammars and which options exclude each other. Does not know decoding, spans or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.families import check_infill
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.options import AdaptiveOptions, ExactOptions, InfillOptions, ModeOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult
from trimode.engine.scoring import Question, QuestionsRequest, ScoreRequest

from ..conversation import Trim, marker_note
from ..decisions import Asked, Calibration, DecisionQuestion, common_beginning, with_question
from ..errors import BudgetTooSmall, GrammarRuntimeError
from ..grammar import COMPLETION_TOKENS, Dropped, GrammarCompiler, Matcher, Relaxed, TurnMatcher, relaxed, relaxed_turn
from ..schema import Turn, TurnTarget
from ..selection import DecodePlan, options_of, sampling_of
from ..turns import (
    Markers,
    TurnSegment,
    call_format,
    call_ids,
    marker_of,
    section_options,
    segments_of,
    turn_matcher,
    writing_notes,
)
from .call import Call
from .choice import unused_in_infill
from .prompts import PromptWriter
from .recent_outputs import RecentOutputs

THINKING_END = "</think>"
"""Marker token that ends the thinking."""


@dataclass(frozen=True)
class Translator:
    """One checkpoint's tokenizer and grammars."""

    tokenizer: Tokenizer
    grammars: GrammarCompiler
    config: ModelConfig

    def request(self, call: Call) -> DecodeRequest | ScoreRequest:
        """Returns the request of `call`. Raises RequestError for options that exclude each other."""
        return self.request_and_notes(call)[0]

    def request_and_notes(
        self, call: Call, trim: Trim | None = None, outputs: RecentOutputs | None = None
    ) -> tuple[DecodeRequest | ScoreRequest, tuple[str, ...]]:
        """Returns the request, and notes on how the prompt differs from what the caller passed.

        `outputs`: text of which only `lookup_spec` makes use.
        """
        if call.kind == "choice":
            return self._scoring(call, trim)
        settings = call.plan.settings
        check_stop(call)
        max_tokens = 0 if settings.max_tokens is None else settings.max_tokens
        prompt = self.prompts.prompt(call, max_tokens, trim)
        request = DecodeRequest(
            prompt=tuple(prompt.ids),
            options=section_options(call.segments, self._options) if call.turn else self._options(call.plan),
            sampling=sampling_of(settings),
            max_tokens=max_tokens,
            stop=settings.stop or (),
            constraint=self.constraint(call),
            thinking=self._thinking(settings.max_thinking_tokens),
            max_passes=call.max_passes,
            max_seconds=call.max_seconds,
            cache_scope=call.cache_scope,
            lookup=outputs.runs if outputs is not None and "lookup_spec" in call.modes else (),
        )
        check_budget(request)
        return request, prompt.notes

    def constraint(self, call: Call) -> Matcher | TurnMatcher | None:
        """Returns a matcher at the start of the call's output; None where nothing constrains it."""
        if call.turn is not None:
            turn = relaxed_turn(call.turn)[0] if call.plan.settings.guarantee == "checked" else call.turn
            return turn_matcher(self.tokenizer, self.grammars, turn)
        return None if call.schema is None else self.grammars.matcher(self.enforced(call).schema)

    def written(self, call: Call) -> Call:
        """Returns `call` with a turn's tool calls in the form of the checkpoint's chat template."""
        if call.turn is None:
            return call
        turn = call.turn.written(call_format(self.tokenizer, call.turn))
        return replace(call, turn=turn, notes=(*call.notes, *writing_notes(self.tokenizer, turn)))

    def dropped(self, call: Call) -> tuple[Dropped, ...]:
        """Returns the keywords that the call's grammar does not enforce."""
        if call.turn is None:
            return () if call.schema is None else self.enforced(call).dropped
        return relaxed_turn(call.turn)[1] if call.plan.settings.guarantee == "checked" else ()

    def enforced(self, call: Call) -> Relaxed:
        """Returns the part of the call's schema that the grammar enforces: all, or under "checked" what it can."""
        assert call.schema is not None
        return relaxed(call.schema) if call.plan.settings.guarantee == "checked" else Relaxed(call.schema)

    def _scoring(self, call: Call, trim: Trim | None) -> tuple[ScoreRequest, tuple[str, ...]]:
        candidates = tuple(tuple(self.tokenizer.encode(candidate)) for candidate in call.candidates)
        prompt = self.prompts.prompt(call, max(map(len, candidates)), trim)
        return ScoreRequest(prompt=tuple(prompt.ids), candidates=candidates, cache_scope=call.cache_scope), prompt.notes

    def decision(
        self, call: Call, questions: Sequence[DecisionQuestion], calibration: Calibration
    ) -> tuple[QuestionsRequest, Asked, tuple[str, ...]]:
        """Returns the request of a decision, what its record keeps, and notes.

        The prompt is what all questions' prompts begin with. Raises RequestError or PromptTooLong.
        """
        candidates = [tuple(map(tuple, map(self.tokenizer.encode, question.options))) for question in questions]
        prompts = [
            self.prompts.prompt(replace(call, messages=with_question(call.messages, question.text)), max(map(len, ids)))
            for question, ids in zip(questions, candidates, strict=True)
        ]
        shared = common_beginning([prompt.ids[:-1] for prompt in prompts])
        if not shared:
            raise RequestError("the chat template puts questions before the input, so that there is no prompt to share")
        tokens = tuple(
            Question(tokens=tuple(prompt.ids[len(shared) :]), candidates=ids)
            for prompt, ids in zip(prompts, candidates, strict=True)
        )
        request = QuestionsRequest(prompt=tuple(shared), questions=tokens, cache_scope=call.cache_scope)
        notes = tuple(dict.fromkeys(note for prompt in prompts for note in prompt.notes))
        return request, Asked(tuple(questions), tokens, calibration), notes

    def _options(self, plan: DecodePlan) -> ModeOptions:
        options = self.config.fitted_mode(options_of(plan.mode, plan.settings))
        if plan.controller is not None and isinstance(options, ExactOptions):
            return AdaptiveOptions(first=options, controller=plan.controller)
        return options

    @property
    def prompts(self) -> PromptWriter:
        return PromptWriter(self.tokenizer, self.config)

    def encode(self, call: Call) -> list[int]:
        """Returns the prompt ids of a call."""
        return self.prompts.prompt(call).ids

    def infill(self, call: Call, suffix: str) -> tuple[DecodeRequest, list[str]]:
        """Returns the request for tokens between the call's prompt and `suffix`, and notes, one if `suffix` was cut."""
        check_infill(self.config.architecture, self.config.drafting.fills)
        settings = call.plan.settings
        prompt = self.prompts.prompt(call, settings.max_tokens or 0)
        if self.tokenizer.fewest(suffix) > self.config.max_position_embeddings:  # refused before it is tokenized
            raise RequestError(f"infill with a suffix of {len(suffix)} characters: at most some of one block is seen")
        capacity = self.config.block_size - 1 - (settings.max_tokens or 0)
        ids = self.tokenizer.encode(suffix)
        if capacity < 1 or not ids:
            raise RequestError(
                f"infill with max_tokens={settings.max_tokens} and a suffix of {len(ids)} tokens: expected at most "
                f"{self.config.block_size - 2} tokens, so that some of a non-empty suffix fits the block"
            )
        notes = list(prompt.notes)
        if len(ids) > capacity:
            notes.append(f"the model saw the first {capacity} of the suffix's {len(ids)} tokens")
        if (marker := self.tokenizer.marker_in(suffix)) is not None:
            notes.append(marker_note("suffix", marker))
        options = InfillOptions(suffix=tuple(ids[:capacity]))
        if settings.threshold is not None:
            options = replace(options, threshold=settings.threshold)
        return DecodeRequest(
            prompt=tuple(prompt.ids),
            options=options,
            sampling=sampling_of(settings),
            max_tokens=settings.max_tokens or 0,
            max_passes=call.max_passes,
            max_seconds=call.max_seconds,
            cache_scope=call.cache_scope,
        ), [*call.notes, *notes, *unused_in_infill(settings)]

    def value(
        self, call: Call, request: DecodeRequest, decoded: DecodeResult, segments: Sequence[TurnSegment] = ()
    ) -> tuple[Any, bool | None, list[str]]:
        """Returns the parsed value, the validators' verdict (None without a schema) and notes on the text."""
        if call.turn is not None:
            return self._turn_value(call, decoded, segments)
        if call.schema is None:
            return None, None, []
        if decoded.finish_reason == "length":
            raise GrammarRuntimeError(f"no way to end was found within {request.max_tokens} tokens: {decoded.text!r}")
        text = self.answer(request, decoded)
        value = call.schema.parse(text)
        return value, True, [*self.grammars.notes(self.enforced(call).schema), *call.schema.remarks(text)]

    def segments(self, call: Call, decoded: DecodeResult, record: str) -> tuple[TurnSegment, ...]:
        """Returns the segments of a finished turn; `record`: id of its record. Raises SchemaViolation."""
        assert call.turn is not None
        ids = call_ids(record, call.used_ids)
        return tuple(segments_of(decoded, call.turn, self.markers(call.turn), call.segments, lambda: next(ids)))

    def markers(self, turn: TurnTarget) -> Markers:
        """Returns the texts that end the sections of a turn."""
        return Markers(marker_of(self.tokenizer, turn.format), THINKING_END, self.tokenizer.decode)

    def _turn_value(
        self, call: Call, decoded: DecodeResult, segments: Sequence[TurnSegment]
    ) -> tuple[Turn, bool | None, list[str]]:
        turn, calls = call.turn, tuple(found for segment in segments for found in segment.calls)
        assert turn is not None
        prose = "".join(segment.text for segment in segments if segment.kind == "prose")
        last = segments[-1] if segments else None
        if decoded.finish_reason == "length" and last is not None and not _may_be_cut(last, turn):
            tokens = len(decoded.token_ids)
            raise GrammarRuntimeError(f"no way to end was found within {tokens} tokens: {decoded.text!r}")
        answer = None if turn.answer is None or calls else turn.answer.parse(last.text if last else "")
        checked = bool(calls) or turn.answer is not None
        parts = [part for part in (turn.calls if calls else None, None if calls else turn.answer) if part is not None]
        notes = [note for part in parts for note in self.grammars.notes(part)]
        return Turn(text=prose, calls=calls, value=answer), checked or None, notes

    def answer(self, request: DecodeRequest, decoded: DecodeResult) -> str:
        """Returns the text after the thinking; the whole text if no thinking was requested."""
        return decoded.text if request.thinking is None else self.parts(request.thinking, decoded.token_ids)[1]

    def parts(self, thinking: Thinking, ids: Sequence[int]) -> tuple[str, str]:
        """Returns the thinking and the answer."""
        at = ids.index(thinking.end) if thinking.end in ids else len(ids)
        return self.tokenizer.decode(ids[:at]), self.tokenizer.decode(ids[at + 1 :])

    def _thinking(self, budget: int | None) -> Thinking | None:
        if budget is None:
            return None
        end = self.tokenizer.marker(THINKING_END)
        if end is None:
            raise RequestError(
                f"max_thinking_tokens={budget}: this checkpoint's tokenizer has no {THINKING_END!r} token; leave it out"
            )
        return Thinking(end, budget)


def _may_be_cut(last: TurnSegment, turn: TurnTarget) -> bool:
    """Returns whether a turn is complete without an end token after its segment `last`."""
    return last.kind in ("prose", "thinking") or (last.kind == "tool_call" and last.text.endswith(turn.format.tail))


def check_stop(call: Call) -> None:
    """Raises RequestError for stop strings that could cut a text before it is valid."""
    if not call.plan.settings.stop:
        return
    if call.turn is not None and "prose" not in call.turn.segment_kinds:
        raise RequestError("stop strings apply to prose, and this turn has none: it is held to a schema or to calls")
    if call.schema is not None:
        raise RequestError("stop strings cannot be combined with a schema: they could cut the text before it is valid")


def check_budget(request: DecodeRequest) -> None:
    """Raises BudgetTooSmall if the shortest known complete text does not fit after the longest allowed thinking."""
    if request.constraint is None:
        return
    remaining = request.max_tokens - (0 if request.thinking is None else request.thinking.budget + 1)
    shortest = request.constraint.completion(COMPLETION_TOKENS)
    if shortest is not None and len(shortest) > remaining:
        raise BudgetTooSmall(len(shortest), remaining)
