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
from trimode.engine.request import AdaptiveOptions, DecodeRequest, ExactOptions, InfillOptions, Options, ScoreRequest
from trimode.engine.result import DecodeResult

from ..conversation import Trim, marker_note
from ..errors import BudgetTooSmall, GrammarRuntimeError
from ..grammar import COMPLETION_TOKENS, GrammarCompiler, Relaxed, relaxed
from ..selection import DecodePlan, options_of, sampling_of
from .call import Call
from .choice import unused_in_infill
from .prompts import PromptWriter

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
        self, call: Call, trim: Trim | None = None
    ) -> tuple[DecodeRequest | ScoreRequest, tuple[str, ...]]:
        """Returns the request, and notes on how the prompt differs from what the caller passed."""
        if call.kind == "choice":
            return self._scoring(call, trim)
        settings = call.plan.settings
        if call.schema is not None and settings.stop:
            raise RequestError(
                "stop strings cannot be combined with a schema: they could cut the text before it is valid"
            )
        max_tokens = 0 if settings.max_tokens is None else settings.max_tokens
        prompt = self.prompts.prompt(call, max_tokens, trim)
        request = DecodeRequest(
            prompt=tuple(prompt.ids),
            options=self._options(call.plan),
            sampling=sampling_of(settings),
            max_tokens=max_tokens,
            stop=settings.stop or (),
            constraint=None if call.schema is None else self.grammars.matcher(self.enforced(call).schema),
            thinking=self._thinking(settings.max_thinking_tokens),
            max_passes=call.max_passes,
            max_seconds=call.max_seconds,
        )
        check_budget(request)
        return request, prompt.notes

    def enforced(self, call: Call) -> Relaxed:
        """Returns the part of the call's schema that the grammar enforces: all, or under "checked" what it can."""
        assert call.schema is not None
        return relaxed(call.schema) if call.plan.settings.guarantee == "checked" else Relaxed(call.schema)

    def _scoring(self, call: Call, trim: Trim | None) -> tuple[ScoreRequest, tuple[str, ...]]:
        candidates = tuple(tuple(self.tokenizer.encode(candidate)) for candidate in call.candidates)
        prompt = self.prompts.prompt(call, max(map(len, candidates)), trim)
        return ScoreRequest(prompt=tuple(prompt.ids), candidates=candidates), prompt.notes

    def _options(self, plan: DecodePlan) -> Options:
        options = self.config.fitted(options_of(plan.mode, plan.settings))
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
        ), [*call.notes, *notes, *unused_in_infill(settings)]

    def value(self, call: Call, request: DecodeRequest, decoded: DecodeResult) -> tuple[Any, bool | None, list[str]]:
        """Returns the parsed value, the validators' verdict (None without a schema) and notes on the text."""
        if call.schema is None:
            return None, None, []
        if decoded.finish_reason == "length":
            raise GrammarRuntimeError(f"no way to end was found within {request.max_tokens} tokens: {decoded.text!r}")
        text = self.answer(request, decoded)
        value = call.schema.parse(text)
        return value, True, [*self.grammars.notes(self.enforced(call).schema), *call.schema.remarks(text)]

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


def check_budget(request: DecodeRequest) -> None:
    """Raises BudgetTooSmall if the shortest known complete text does not fit after the longest allowed thinking."""
    if request.constraint is None:
        return
    remaining = request.max_tokens - (0 if request.thinking is None else request.thinking.budget + 1)
    shortest = request.constraint.completion(COMPLETION_TOKENS)
    if shortest is not None and len(shortest) > remaining:
        raise BudgetTooSmall(len(shortest), remaining)
