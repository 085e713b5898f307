"""The token engine: requests in token ids in, results in token ids out.

Knows one model, its pages, the prefix index and the scheduler; creates a running request for each job. Does not know
text (except the `decode` function for stop strings), schemas or spans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast, overload

import torch

from trimode.kernels import ops

from .decoding.gate import Gate
from .decoding.output import Decode, Output
from .decoding.run import DecodeState
from .decoding.sampling import Sampler
from .decoding.state import CacheState
from .errors import CallCancelled, KvMemoryExceeded, PromptTooLong, RequestError
from .exactness import Exactness, exactness
from .forward.graphs import BUCKETS, Buckets, Graphs, Progress, capturing
from .forward.memory import planned
from .forward.runner import Runner
from .kv_cache.pages import PagePool, page_bytes, pages_for
from .kv_cache.prefix import Match, PrefixIndex
from .models.families import check_infill, check_mode, check_scoring
from .models.model import Transformer
from .modes import choice, decode
from .request import AdaptiveOptions, DecodeRequest, InfillOptions, ScoreRequest
from .result import EXACT, DecodeResult, ScoreResult
from .running import RunningRequest
from .scheduler import Job, Scheduler, Update

KV_BYTES = 1 << 30
Request = TypeVar("Request", bound=DecodeRequest | ScoreRequest)


class TokenEngine:
    """One model in memory. Safe to call from any number of threads and tasks; all of them share its passes.

    `text` decodes output ids for stop strings; `vocab_size` is the tokenizer's, ids from there up are never chosen.
    `kernels`: "auto", "native", "native-bf16", "triton", "torch" or "torch-fast" (see `kernels/ops.py`);
    `runner.kernels.name` is the one that runs. `kv_bytes`: memory for keys and values of running requests and stored
    prefixes. `queue`: requests that may wait. `quantize`: "int8" or "fp8" quantises the blocks' matrices, with
    `quantize_head` the LM head's too; modes still agree, and the model's own matrices are released. `graphs`: passes
    that fit one of `buckets` run as captured graphs (None: on CUDA devices); on other devices over the same static
    buffers without a graph. `progress` is called after each capture. `exactness`: whether rows were found to be
    invariant, which is checked here. Raises RequestError, DeviceMemoryExceeded, RowsDisagree.
    """

    def __init__(
        self,
        model: Transformer,
        text: Decode,
        vocab_size: int,
        *,
        kv_bytes: int = KV_BYTES,
        queue: int = 1024,
        keep_prefixes: bool = True,
        kernels: str = "auto",
        quantize: str | None = None,
        quantize_head: bool = False,
        graphs: bool | None = None,
        buckets: Buckets = BUCKETS,
        progress: Progress | None = None,
    ) -> None:
        precision = _precision(quantize, quantize_head)
        self.model, self.text = model, text
        self.device = model.encoder.norm.weight.device
        self.dtype = model.encoder.norm.weight.dtype
        self.banned = torch.arange(model.config.vocab_size, device=self.device) >= vocab_size
        if model.config.mask_token_id is not None:
            self.banned[model.config.mask_token_id] = True
        with _kernel_errors(kernels):
            ours, why = ops.kernels(self.device, self.dtype, kernels, precision is not None)
            capture = capturing(ours, self.device, graphs)
            self.runner = Runner(model, ours, why, precision, not quantize_head, release=True)
        self.memory = planned(model, self.runner, kv_bytes, buckets if capture else None)
        self.memory.check(self.device)
        self.exactness: Exactness = exactness(self.runner)
        self.pool = PagePool(model.config, kv_bytes, self.dtype, self.device)
        self.index = PrefixIndex(self.pool, keep_prefixes, model.config.aligned_block)
        self.graphs = None if capture is None else Graphs(self.runner, self.pool, buckets, capture)
        if self.graphs is not None:
            self.graphs.warm(progress)
        self.scheduler = Scheduler(self.runner, self.pool, self.index, self._admit, queue, self.graphs)

    @overload
    def decode(self, request: DecodeRequest) -> DecodeResult: ...
    @overload
    def decode(self, request: ScoreRequest) -> ScoreResult: ...
    def decode(self, request: DecodeRequest | ScoreRequest) -> DecodeResult | ScoreResult:
        return cast(DecodeResult | ScoreResult, _all_results([self.submit(request)])[0])

    def decode_many(self, requests: Sequence[DecodeRequest]) -> list[DecodeResult]:
        """Decodes all requests together; each gets the tokens that it would get alone."""
        jobs = [Job(self.check(request)) for request in requests]
        self.scheduler.submit(jobs)
        return _all_results([job.future for job in jobs])

    async def adecode(self, request: DecodeRequest | ScoreRequest) -> Any:
        """Runs `decode` for tasks; cancelling the task frees the request's pages within one pass."""
        return await asyncio.wrap_future(self.submit(request))

    def submit(
        self, request: DecodeRequest | ScoreRequest, watch: Callable[[Update], None] | None = None
    ) -> Future[Any]:
        """Queues a request. Cancelling the future, at any time, frees its pages within one pass.

        `watch` is called after each of its passes, from the scheduler's thread; it must not block.
        Raises PromptTooLong, KvMemoryExceeded, QueueFull or RequestError at once.
        """
        job = Job(self.check(request), watch)
        self.scheduler.submit([job])
        return job.future

    def close(self) -> None:
        """Cancels waiting and running requests, and refuses later ones."""
        self.scheduler.close()

    def check(self, request: Request) -> Request:
        """Returns the request with its options resolved for the weights.

        Raises what `submit` raises, except QueueFull.
        """
        config = self.model.config
        if isinstance(request, DecodeRequest):
            adaptive = isinstance(request.options, AdaptiveOptions)
            for mode in sorted(EXACT) if adaptive else (request.options.mode,):
                check_mode(config.architecture, mode)
            if isinstance(request.options, InfillOptions):
                check_infill(config.architecture)
            request = replace(request, options=config.fitted(request.options))
        else:
            check_scoring(config.architecture)
        if request.output_positions > config.max_position_embeddings - len(request.prompt):
            raise PromptTooLong(len(request.prompt), request.output_positions, config.max_position_embeddings)
        if max(request.prompt) >= config.vocab_size or min(request.prompt) < 0:
            raise RequestError(f"prompt holds ids outside 0..{config.vocab_size - 1}")
        need = self._pages(request)
        if need > self.pool.pages:
            size = page_bytes(config, self.dtype)
            raise KvMemoryExceeded(need * size, self.pool.pages * size)
        return request

    def _pages(self, request: DecodeRequest | ScoreRequest) -> int:
        """Returns the number of pages for everything that the request may commit."""
        return pages_for(len(request.prompt) + request.cached_positions)

    def _admit(self, request: DecodeRequest | ScoreRequest) -> RunningRequest | None:
        """Returns a running request with its pages, shared ones first; None while too many pages are in use."""
        match = self.index.match(request.prompt[:-1])
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

    def _open(self, request: DecodeRequest | ScoreRequest, pages: list[int], reused: int) -> RunningRequest:
        config = self.model.config
        sampler = Sampler(request.sampling, config.vocab_size, self.banned, self.runner.kernels)
        pending, adapter = list(request.prompt[reused:]), self.model.adapter is not None
        if isinstance(request, ScoreRequest):
            context = CacheState(pending=pending, mask_id=config.mask_id, adapter=adapter, cached=reused)
            passes = choice.score(context, request.candidates, config.eos_token_ids)
            return RunningRequest(request, context, passes, pages, sampler, reused, self.runner.kernels.name)
        ends = config.eos_token_ids
        run = DecodeState(
            mode=request.options.mode,
            pending=pending,
            output=Output(request.max_tokens, request.stop, ends, self.text),
            gate=Gate(request.constraint, ends, request.thinking, -(-config.vocab_size // 32), request.max_tokens),
            mask_id=config.mask_id,
            adapter=adapter,
            cached=reused,
        )
        return RunningRequest(
            request, run, decode(run, request.options), pages, sampler, reused, self.runner.kernels.name
        )


def result_of(future: Future[Any]) -> Any:
    """Waits for a future of `submit`. Raises CallCancelled if it was cancelled."""
    try:
        return future.result()
    except CancelledError:
        raise CallCancelled("the call was cancelled before it was done") from None


def _all_results(futures: list[Future[Any]]) -> list[Any]:
    """Returns all results; if one fails or the caller is interrupted, the others are cancelled."""
    try:
        return [result_of(future) for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _precision(quantize: str | None, head: bool) -> ops.Precision | None:
    if quantize is None and head:
        raise RequestError("quantize_head=True: the head is rounded as the other weights are; say quantize= too")
    for known in ops.PRECISIONS:
        if quantize == known:
            return known
    if quantize is not None:
        raise RequestError(f"quantize={quantize!r}: expected one of {', '.join(ops.PRECISIONS)}, or None")
    return None


@contextmanager
def _kernel_errors(choice: str) -> Generator[None]:
    """Raises RequestError if the kernels asked for cannot run here, or not on these weights."""
    if choice not in ops.CHOICES:
        raise RequestError(f"kernels={choice!r}: expected one of {', '.join(ops.CHOICES)}")
    try:
        yield
    except (ops.NativeUnavailable, ops.TritonUnavailable) as error:
        raise RequestError(f"kernels={choice!r}: {error}; kernels='auto' takes what can run") from None
