"""The scheduler: one background thread that serves all running requests with one ragged pass after another.

Knows jobs, admission by pages, the order of a pass and observers. Does not know modes: a job is a generator to it.
Requests join and leave between passes. The first to arrive is admitted first; decoding rows are in every pass, prompts
share the remaining rows, oldest first, so that none starves and none delays the others. If prompts with a common prefix
arrive together, the first computes their common pages and the others wait for them.
"""

from __future__ import annotations

import atexit
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread, current_thread
from typing import Any
from weakref import WeakSet

import torch

from .decoding.run import DecodeState
from .decoding.segment import Segment
from .errors import QueueFull, RequestError
from .forward.batch import Batch
from .forward.draft_verify import chained, cycle
from .forward.graphs import Graphs
from .forward.runner import Runner
from .kv_cache.pages import PAGE, PagePool
from .kv_cache.prefix import PrefixIndex, Tokens, page_prefixes
from .request import DecodeRequest, ScoreRequest
from .running import ChainedPass, Pass, RunningRequest

PASS_ROWS = 512
"""Rows after which a pass takes no further prompt."""

IDLE_SECONDS = 5.0
"""Seconds that the thread waits for work before it ends; the next request starts another."""


@dataclass(frozen=True, slots=True)
class Update:
    """The tokens committed so far, and the slots of the block in progress (None: masked)."""

    tokens: tuple[int, ...]
    tentative: tuple[int | None, ...]


@dataclass(slots=True, eq=False)
class Job:
    """A submitted request. `future` may be cancelled at any time; `watch` is called from the scheduler's thread."""

    request: DecodeRequest | ScoreRequest
    watch: Callable[[Update], None] | None = None
    future: Future[Any] = field(default_factory=Future)
    running: RunningRequest | None = None


class Scheduler:
    """Runs jobs.

    `admit` returns a job's RunningRequest, or None while its pages are in use; at most `queue` jobs wait.
    """

    def __init__(
        self,
        runner: Runner,
        pool: PagePool,
        index: PrefixIndex,
        admit: Callable[[DecodeRequest | ScoreRequest], RunningRequest | None],
        queue: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.graphs = graphs
        self.runner, self.pool, self.index, self.admit, self.queue = runner, pool, index, admit, queue
        self.passes = 0
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False
        self._full = False  # the oldest waiting job found too few free pages, and none have been freed since
        _OPEN.add(self)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues all jobs or none. Raises QueueFull, and RequestError after `close`."""
        with self._changed:
            if self._closed:
                raise RequestError("the engine is closed; load it again to go on")
            waiting = sum(not job.future.cancelled() for job in self._waiting)
            if waiting + len(jobs) > self.queue:
                raise QueueFull(waiting, len(jobs), self.queue)
            self._waiting += jobs
            if self._thread is None:
                self._thread = Thread(target=self._serve, name="trimode-scheduler", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Cancels waiting and running jobs, and ends the thread."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *self._running]
            thread = self._thread
            self._changed.notify()
        for job in jobs:
            job.future.cancel()
        if thread is not None and thread is not current_thread():
            thread.join()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @torch.inference_mode()
    def _serve(self) -> None:
        while self._has_work():
            self._drop_cancelled()
            self._admit_waiting()
            self._pass()

    def _has_work(self) -> bool:
        """Waits for work; returns False if the thread is to end."""
        with self._changed:
            if not self._waiting and not self._running and not self._closed:
                self._changed.wait(IDLE_SECONDS)
            if self._waiting or self._running:
                return True
            self._thread = None
            return False

    def _drop_cancelled(self) -> None:
        """Releases cancelled jobs."""
        for job in [job for job in self._running if job.future.cancelled()]:
            self._release(job)
        with self._changed:
            kept = deque(job for job in self._waiting if not job.future.cancelled())
            self._full = self._full and len(kept) == len(self._waiting)  # the next job may need fewer pages
            self._waiting = kept

    def _admit_waiting(self) -> None:
        """Admits waiting jobs, oldest first, while their pages are free; skips jobs whose prefix is being computed."""
        coming = (
            {prefix for job in self._running for prefix in self._pending_prefixes(job)}
            if self._waiting
            else set[Tokens]()
        )
        at = 0
        while at < len(self._waiting) and not self._full:
            job = self._waiting[at]
            if self._is_pending(job.request.prompt, coming):
                at += 1
                continue
            try:
                job.running = self.admit(job.request)
            except Exception as error:  # an error of a constraint ends its own job only
                del self._waiting[at]
                _deliver(job, error=error)
                continue
            if job.running is None:
                self._full = True
                return
            with self._changed:
                del self._waiting[at]
                self._running.append(job)
            self._step(job, job.running.start)
            coming.update(self._pending_prefixes(job))

    def _pending_prefixes(self, job: Job) -> Iterator[Tokens]:
        """Yields the prefixes, to whole pages, that will be stored when the job's prompt is read."""
        running = job.running
        reads = self.index.enabled and running is not None and running.segment is not None and running.segment.prefill
        return page_prefixes(job.request.prompt) if reads else iter(())

    def _is_pending(self, prompt: Tokens, coming: Set[Tokens]) -> bool:
        """Returns whether the first page that `prompt` would have to compute is being computed by another job."""
        if not coming or len(prompt) <= PAGE:
            return False
        end = (len(self.index.match(prompt[:-1]).pages) + 1) * PAGE
        return end < len(prompt) and prompt[:end] in coming

    def _pass(self) -> None:
        jobs = self._next_jobs()
        if not jobs:
            return
        begin = time.perf_counter()
        requests = [running for job in jobs if (running := job.running) is not None]
        segments = [segment for running in requests if (segment := running.segment) is not None]
        try:
            steps = self._run(requests, segments)
        except Exception as error:  # for example out of memory: no job of this pass can continue
            for job in jobs:
                self._release(job)
                _deliver(job, error=error)
            return
        rows = sum([segment.rows for segment in segments])
        shared = Pass(seconds=time.perf_counter() - begin, rows=rows, calls=len(segments))
        for job, step in zip(jobs, steps, strict=True):
            self._step(job, partial(step, shared))

    def _run(self, requests: Sequence[RunningRequest], segments: Sequence[Segment]) -> list[Callable[[Pass], None]]:
        """Runs the segments, and their `then` if that needs no look at the result; returns each job's next step."""
        tables, samplers = [running.pages for running in requests], [running.sampler for running in requests]
        if chained(self.runner, segments) and all(running.can_chain for running in requests):
            pairs, graphs = cycle(segments, tables, self.runner, self.pool, samplers, self.graphs)
            self.passes += 2
            rows = sum([segment.then.rows for segment in segments if segment.then is not None])
            second = Pass(seconds=0.0, rows=rows, calls=len(segments))
            return [
                partial(running.feed, *first, replayed=graphs, then=ChainedPass(*then, second))
                for running, (first, then) in zip(requests, pairs, strict=True)
            ]
        batch = Batch(segments, tables)
        answers = batch.forward(self.runner, self.pool, samplers, self.graphs)
        self.passes += 1
        return [
            partial(running.feed, *answer, replayed=batch.replayed)
            for running, answer in zip(requests, answers, strict=True)
        ]

    def _next_jobs(self) -> list[Job]:
        """Returns the jobs of the next pass: all that decode, and prompts up to PASS_ROWS, but at least one."""
        waiting = [(job, segment) for job in self._running if job.running and (segment := job.running.segment)]
        chosen = [job for job, segment in waiting if not segment.prefill]
        rows = sum(segment.rows for _, segment in waiting if not segment.prefill)
        for job, segment in waiting:
            if segment.prefill and (rows + segment.rows <= PASS_ROWS or not _prefills(chosen)):
                chosen.append(job)
                rows += segment.rows
        return chosen

    def _step(self, job: Job, step: Callable[[], None]) -> None:
        """Runs one step of a job; an exception ends that job alone."""
        running = job.running
        assert running is not None
        prefill = running.segment is not None and running.segment.prefill
        try:
            step()
            running.limit()
            if prefill:
                self._share_prompt(running)
            if job.watch is not None and isinstance(running.context, DecodeState):
                job.watch(Update(tuple(running.context.output.tokens), running.context.tentative))
            if running.segment is None:
                self.index.insert(running.cached_tokens, running.pages)
                result = running.result()
                self._release(job)
                _deliver(job, result=result)
        except Exception as error:
            self._release(job)
            _deliver(job, error=error)

    def _share_prompt(self, running: RunningRequest) -> None:
        """Stores a prompt's whole pages in the prefix index as soon as they are written."""
        known = running.cached_tokens
        self.index.insert(known[: len(known) // PAGE * PAGE], running.pages)

    def _release(self, job: Job) -> None:
        """Closes the mode and frees its pages."""
        with self._changed:
            if job in self._running:
                self._running.remove(job)
        if job.running is not None:
            job.running.close()
            self.pool.drop(job.running.pages)
            job.running, self._full = None, False


def _prefills(jobs: Sequence[Job]) -> bool:
    return any(
        job.running is not None and job.running.segment is not None and job.running.segment.prefill for job in jobs
    )


def _deliver(job: Job, result: Any = None, error: Exception | None = None) -> None:
    """Sets the future's result or error, unless it was cancelled meanwhile."""
    if not job.future.set_running_or_notify_cancel():
        return
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


_OPEN: WeakSet[Scheduler] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Closes all schedulers at exit, because the interpreter crashes if it stops a thread inside a tensor function."""
    for scheduler in list(_OPEN):
        scheduler.close()
