"""Whether a request can be served, and its start: checked against weights and memory, then opened on pages of its own.

Knows one model's config, its pages and the prefix index. Does not know threads, queues or who waits.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from functools import partial
from operator import index
from typing import TypeVar

from torch import Tensor

from .decoding.gate import Gate
from .decoding.output import Decode, Output
from .decoding.run import DecodeState
from .decoding.sampling import Sampler
from .decoding.state import CacheState
from .errors import KvMemoryExceeded, PromptTooLong, RequestError
from .forward.runner import Runner
from .kv_cache.pages import PagePool, page_bytes, pages_for
from .kv_cache.prefix import Match, PrefixIndex
from .models.config import ModelConfig
from .models.families import check_infill, check_mode, check_scoring
from .modes import decode, score
from .options import (
    AdaptiveOptions,
    Controller,
    ExactOptions,
    InfillOptions,
    ModeOptions,
    Options,
    SectionOptions,
    Switch,
)
from .request import DecodeRequest
from .result import Mode, Round
from .running import RunningRequest
from .scoring import Scoring

Request = TypeVar("Request", bound=DecodeRequest | Scoring)


class Admission:
    """`banned` [V] bool: ids that are never chosen. `text` decodes output ids for stop strings."""

    config: ModelConfig
    runner: Runner
    pool: PagePool
    index: PrefixIndex
    banned: Tensor
    text: Decode

    def __init__(
        self, config: ModelConfig, runner: Runner, pool: PagePool, index: PrefixIndex, banned: Tensor, text: Decode
    ) -> None:
        self.config, self.runner, self.pool, self.index = config, runner, pool, index
        self.banned, self.text = banned, text

    def check(self, request: Request) -> Request:
        """Returns the request with its options resolved for the weights.

        Raises what `submit` raises, except QueueFull.
        """
        request = replace(request, prompt=_ids(request.prompt))
        config = self.config
        if isinstance(request, DecodeRequest):
            for mode in sorted(_modes(request.options)):
                check_mode(config.architecture, mode, config.modes)
            if isinstance(request.options, InfillOptions):
                check_infill(config.architecture, config.drafting.fills)
            lookup = tuple(map(_ids, request.lookup))
            request = replace(request, options=self._within_modes(config.fitted(request.options)), lookup=lookup)
        else:
            check_scoring(config.architecture)
        if request.output_positions > config.max_position_embeddings - len(request.prompt):
            raise PromptTooLong(len(request.prompt), request.output_positions, config.max_position_embeddings)
        biased = [token for token, _ in request.sampling.logit_bias]
        given: list[tuple[str, Sequence[int]]] = [("prompt", request.prompt), ("logit_bias", biased)]
        if isinstance(request, Scoring):
            given += [(f"what follows the prompt ({number})", ids) for number, ids in enumerate(request.read)]
        else:
            given += [("lookup", ids) for ids in request.lookup]
        for name, ids in given:
            if ids and (max(ids) >= config.vocab_size or min(ids) < 0):
                raise RequestError(f"{name} holds ids outside 0..{config.vocab_size - 1}")
        need = self._pages(request)
        if need > self.pool.pages:
            size = page_bytes(config, self.pool.keys.dtype)
            raise KvMemoryExceeded(need * size, self.pool.pages * size)
        return request

    def _within_modes(self, options: Options) -> Options:
        """Returns `options`; a controller among them then raises ModeUnavailable for a switch to a mode that the
        weights lack."""
        if isinstance(options, SectionOptions):
            kinds = {kind: self._checked(own) for kind, own in options.kinds.items()}
            numbers = {number: self._checked(own) for number, own in options.numbers.items()}
            return replace(options, kinds=kinds, numbers=numbers)
        return options if isinstance(options, InfillOptions) else self._checked(options)

    def _checked(self, options: ModeOptions) -> ModeOptions:
        if not isinstance(options, AdaptiveOptions):
            return options
        return replace(options, controller=partial(_checked_switch, self.config, options.controller))

    def _pages(self, request: DecodeRequest | Scoring) -> int:
        """Returns the number of pages for everything that the request may commit."""
        return pages_for(len(request.prompt) + request.cached_positions)

    def admit(self, request: DecodeRequest | Scoring) -> RunningRequest | None:
        """Returns a running request with its pages, shared ones first; None while too many pages are in use."""
        match = self.index.match(request.prompt[:-1], request.cache_scope)
        fresh = self._take_pages(self._pages(request) - len(match.pages), match)
        if fresh is None and match.partial is not None:
            match = match.whole  # the page to copy from may be the one that is missing
            fresh = self._take_pages(self._pages(request) - len(match.pages), match)
        if fresh is None:
            return None
        return self._open(request, match.pages + fresh, match.length)

    def _take_pages(self, count: int, match: Match) -> list[int] | None:
        """Returns fresh pages after the matched ones, which gain a reference; None if too few are free.

        No reference is added in that case.
        """
        source = [] if match.partial is None else [match.partial]
        self.pool.hold(match.pages + source)  # so that eviction spares them
        self.index.evict(count - self.pool.free)
        if count > self.pool.free:
            self.pool.drop(match.pages + source)
            return None
        fresh = self.pool.take(count)
        for page in source:
            self.pool.copy(page, fresh[0])
        self.pool.drop(source)
        return fresh

    def _open(self, request: DecodeRequest | Scoring, pages: list[int], reused: int) -> RunningRequest:
        config = self.config
        sampler = Sampler(request.sampling, config.vocab_size, self.banned, self.runner.kernels)
        pending, adapter = list(request.prompt[reused:]), self.runner.has_adapter
        if isinstance(request, Scoring):
            context = CacheState(
                pending=pending, mask_id=config.mask_id, drafting=config.drafting, adapter=adapter, cached=reused
            )
            passes = score(context, request, config.eos_token_ids)
            return RunningRequest(request, context, passes, pages, sampler, reused, self.runner.kernels.name)
        ends = config.eos_token_ids
        run = DecodeState(
            mode=request.options.mode,
            pending=pending,
            output=Output(request.max_tokens, request.stop, ends, self.text),
            gate=Gate(request.constraint, ends, request.thinking, -(-config.vocab_size // 32), request.max_tokens),
            mask_id=config.mask_id,
            drafting=config.drafting,
            adapter=adapter,
            seed=request.sampling.seed,
            cached=reused,
            known=(*request.lookup, request.prompt),
        )
        return RunningRequest(
            request, run, decode(run, request.options), pages, sampler, reused, self.runner.kernels.name
        )


def _modes(options: Options) -> Set[Mode]:
    """Returns the modes that may begin an output or a section of it under `options`."""
    if isinstance(options, SectionOptions):
        return {own.mode for own in [*options.kinds.values(), *options.numbers.values()]}
    return {options.mode}


def _checked_switch(
    config: ModelConfig, controller: Controller, rounds: Sequence[Round], options: ExactOptions
) -> Switch | None:
    switch = controller(rounds, options)
    if switch is not None:
        check_mode(config.architecture, switch.options.mode, config.modes)
    return switch


def _ids(prompt: Sequence[int]) -> tuple[int, ...]:
    """The prompt as a tuple of Python integers, which numpy's may become. Raises RequestError for anything else."""
    if isinstance(prompt, tuple) and set(map(type, prompt)) == {int}:
        return prompt
    try:
        return tuple(map(index, prompt))
    except TypeError:
        raise RequestError(f"prompt={str(prompt)[:80]!r}: expected token ids, a sequence of integers") from None
