"""The token engine: requests in token ids in, results in token ids out.

Knows one model, its pages, the prefix index and the scheduler; creates a running request for each job. Does not know
text (except the `decode` function for stop strings), schemas or spans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Final, Self, overload

import torch
from torch import Tensor

from trimode.kernels import ops

from .admission import Admission, Request
from .decoding.output import Decode
from .errors import CallCancelled, RequestError
from .exactness import Exactness, exactness
from .forward.graphs import BUCKETS, Buckets, Graphs, Progress, capturing
from .forward.memory import Plan, planned
from .forward.runner import Runner
from .jobs import Job, Update
from .kv_cache.pages import PagePool
from .kv_cache.prefix import PrefixIndex
from .models.model import Transformer
from .request import DecodeRequest
from .result import DecodeResult, QuestionScores, ScoreResult, TokenLogprobs
from .scheduler import Scheduler
from .scoring import QuestionsRequest, ScoreRequest, Scoring, TokenLogprobsRequest

KV_BYTES = 1 << 30
WHOLE: Final = "no"
"""`quantize` for whole weights, also where a file has blocks."""


class TokenEngine:
    """One model in memory. Safe to call from any number of threads and tasks; all of them share its passes.

    `text` decodes output ids for stop strings; `vocab_size` is the tokenizer's, ids from there up are never chosen.
    `kernels`: "auto", "native", "native-bf16", "native-int8", "triton", "torch" or "torch-fast" (see `kernels/ops.py`);
    `runner.kernels.name` is the one that runs. `kv_bytes`: memory for keys and values of running requests and stored
    prefixes. `queue`: requests that may wait. `quantize`: "int8", "int4" or "fp8" quantises the blocks' matrices, with
    `quantize_head` the LM head's too; modes still agree, and the model's own matrices are released; "no" makes matrices
    whole that a file has in blocks. `graphs`: passes
    that fit one of `buckets` run as captured graphs (None: on CUDA devices); on other devices over the same static
    buffers without a graph. `progress` is called after each capture. `exactness`: whether rows were found to be
    invariant, which is checked here. Raises RequestError, DeviceMemoryExceeded, RowsDisagree.
    """

    model: Transformer
    text: Decode
    banned: Tensor
    memory: Plan
    runner: Runner
    pool: PagePool
    index: PrefixIndex
    graphs: Graphs | None
    admission: Admission
    scheduler: Scheduler

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
        whole = quantize == WHOLE
        kv_bytes, queue = _size("kv_bytes", kv_bytes, 1), _size("queue", queue, 0)
        if not isinstance(graphs, bool | None):
            raise RequestError(f"graphs={graphs!r}: expected true, false or None")
        self.model, self.text = model, text
        self.device: torch.device = model.encoder.norm.weight.device
        self.dtype: torch.dtype = model.encoder.norm.weight.dtype
        self.banned = torch.arange(model.config.vocab_size, device=self.device) >= vocab_size
        if model.config.mask_token_id is not None:
            self.banned[model.config.mask_token_id] = True
        with _kernel_errors(kernels):
            ours, why = ops.kernels(self.device, self.dtype, kernels, precision)
            capture = capturing(ours, self.device, graphs)
            self.runner = Runner(model, ours, why, precision, not quantize_head, release=True, whole=whole)
            ops.check_forms(ours, self.runner.forms)
        self.memory = planned(model, self.runner, kv_bytes, buckets if capture else None)
        self.memory.check(self.device)
        self.exactness: Exactness = exactness(self.runner)
        self.pool = PagePool(model.config, kv_bytes, self.dtype, self.device)
        self.index = PrefixIndex(self.pool, keep_prefixes, model.config.aligned_block)
        self.graphs = None if capture is None else Graphs(self.runner, self.pool, buckets, capture)
        if self.graphs is not None:
            self.graphs.warm(progress)
        self.admission = Admission(model.config, self.runner, self.pool, self.index, self.banned, text)
        self.scheduler = Scheduler(self.runner, self.pool, self.index, self.admission.admit, queue, self.graphs)

    @overload
    def decode(self, request: DecodeRequest) -> DecodeResult: ...
    @overload
    def decode(self, request: ScoreRequest) -> ScoreResult: ...
    @overload
    def decode(self, request: TokenLogprobsRequest) -> TokenLogprobs: ...
    @overload
    def decode(self, request: QuestionsRequest) -> QuestionScores: ...
    def decode(self, request: DecodeRequest | Scoring) -> Any:
        return _all_results([self.submit(request)])[0]

    def decode_many(self, requests: Sequence[DecodeRequest]) -> list[DecodeResult]:
        """Decodes all requests together; each gets the tokens that it would get alone."""
        jobs = [Job(self.check(request)) for request in requests]
        self.scheduler.submit(jobs)
        return _all_results([job.future for job in jobs])

    async def adecode(self, request: DecodeRequest | Scoring) -> Any:
        """Runs `decode` for tasks; cancelling the task frees the request's pages within one pass."""
        return await asyncio.wrap_future(self.submit(request))

    def submit(self, request: DecodeRequest | Scoring, watch: Callable[[Update], None] | None = None) -> Future[Any]:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, request: Request) -> Request:
        """The request, with options as the weights take them. Raises what `submit` raises, QueueFull apart."""
        return self.admission.check(request)


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


def _size(name: str, given: object, least: int) -> int:
    """A whole number, also one of numpy's; true and false are none."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        raise RequestError(f"{name}={given!r}: expected a whole number from {least}")
    return int(given)


def _precision(quantize: str | None, head: bool) -> ops.Precision | None:
    if quantize in (None, WHOLE) and head:
        raise RequestError("quantize_head=True: the head is rounded as the other weights are; say quantize= too")
    for known in ops.PRECISIONS:
        if quantize == known:
            return known
    if quantize not in (None, WHOLE):
        raise RequestError(f"quantize={quantize!r}: expected one of {', '.join(ops.PRECISIONS)}, {WHOLE}, or None")
    return None


def packs(device: torch.device, dtype: torch.dtype, kernels: str, quantize: str | None, quantize_head: bool) -> bool:
    """Whether an engine with these options packs matrices, so that they may stay in the checkpoint's files. Raises
    RequestError."""
    with _kernel_errors(kernels):
        return bool(ops.kernels(device, dtype, kernels, _precision(quantize, quantize_head))[0].packing)


@contextmanager
def _kernel_errors(choice: str) -> Generator[None]:
    """Raises RequestError if the kernels asked for cannot run here, or not on these weights."""
    if not isinstance(choice, str) or choice not in ops.CHOICES:
        raise RequestError(f"kernels={choice!r}: expected one of {', '.join(ops.CHOICES)}")
    try:
        yield
    except (ops.NativeUnavailable, ops.TritonUnavailable) as error:
        raise RequestError(f"kernels={choice!r}: {error}; kernels='auto' takes what can run") from None
