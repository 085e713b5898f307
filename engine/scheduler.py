"""The scheduler: one background thread that serves all running requests with one ragged pass after another.

Knows jobs, admission by pages, the order of a pass and observers. Does not know modes: a job is a generator to it.
Requests join and leave between passes. The first to arrive is admitted first; decoding rows are in every pass, prompts
share the remaining rows, oldest first, so that none starves and none delays the others. If prompts with a common prefix
arrive together, the first computes their common pages and the others wait for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial

from trimode.kernels.ops import begin_in_child

from .decoding.run import DecodeState
from .decoding.segment import Segment
from .errors import EngineStopped, NonFiniteLogits, QueueFull, RequestError, TrimodeError
from .forward.batch import Batch
from .forward.draft_verify import chained, cycle
from .forward.finite import finite, first_bad_part
from .forward.graphs import Graphs
from .forward.runner import Runner
from .jobs import Job, Update, deliver
from .kv_cache.pages import PAGE, PagePool
from .kv_cache.prefix import PrefixIndex, Tokens, page_prefixes
from .request import DecodeRequest
from .running import ChainedPass, Pass, RunningRequest
from .scoring import Scoring
from .serving_thread import ServingThread

Scoped = tuple[str | None, Tokens]
"""A prefix and the scope that may use it."""
PASS_ROWS = 512
"""Rows after which a pass takes no further prompt."""


class Scheduler:
    """`admit` makes a job's RunningRequest, or None while its pages are in use; `waiting` jobs are at most `queue`.

    A forked process begins without jobs, pages in use and stored prefixes.
    """

    runner: Runner
    pool: PagePool
    index: PrefixIndex
    admit: Callable[[DecodeRequest | Scoring], RunningRequest | None]
    queue: int
    passes: int

    def __init__(
        self,
        runner: Runner,
        pool: PagePool,
        index: PrefixIndex,
        admit: Callable[[DecodeRequest | Scoring], RunningRequest | None],
        queue: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.graphs = graphs
        self.runner, self.pool, self.index, self.admit, self.queue = runner, pool, index, admit, queue
        self.passes = 0
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._thread = ServingThread(self)
        self._closed: TrimodeError | None = None
        self._full = False  # the oldest waiting job found too few pages, and none have come back since

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues all jobs or none. Raises QueueFull; RequestError after `close`, EngineStopped after a failure."""
        begin_in_child()
        with self._thread.changed:
            if self._closed is not None:
                raise self._closed
            waiting = sum(not job.future.cancelled() for job in self._waiting)
            if waiting + len(jobs) > self.queue:
                raise QueueFull(waiting, len(jobs), self.queue)
            self._waiting += jobs
            self._thread.work_came()

    def close(self) -> None:
        """Cancels what waits and runs, and ends the thread."""
        with self._thread.changed:
            self._closed = self._closed or RequestError("the engine is closed; load it again to go on")
            jobs = [*self._waiting, *self._running]
            self._thread.changed.notify()
        for job in jobs:
            job.future.cancel()
        self._thread.join()

    def begin_anew(self) -> None:
        """In a forked process: the thread and the threads that wait for its jobs are not there, nor who holds locks."""
        self._thread.forget()
        self._thread, self._full = ServingThread(self), False
        self._waiting, self._running = deque(), []
        self.pool.clear()
        self.index.forget()
        if self.pool.keys.device.type == "cuda":
            self._closed = RequestError(
                "a forked process cannot use the CUDA device of its parent; start processes by spawn or forkserver"
            )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def serve(self) -> None:
        """Passes until nothing waits or runs."""
        while self.busy:
            self._drop_cancelled()
            self._admit_waiting()
            self._pass()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def fail(self, error: BaseException) -> None:
        """What should never be raised ends the engine: every job gets it as EngineStopped, and so do later ones."""
        with self._thread.changed:
            self._closed = EngineStopped(error)
            jobs = [*self._waiting, *self._running]
            self._waiting, self._running = deque(), []
        for job in jobs:
            own = EngineStopped(error)
            own.__cause__ = error
            deliver(job, error=own)

    def _drop_cancelled(self) -> None:
        """Releases cancelled jobs."""
        for job in [job for job in self._running if job.future.cancelled()]:
            self._release(job)
        with self._thread.changed:
            kept = deque(job for job in self._waiting if not job.future.cancelled())
            self._full = self._full and len(kept) == len(self._waiting)  # the next job may need fewer pages
            self._waiting = kept

    def _admit_waiting(self) -> None:
        """Admits waiting jobs, oldest first, while their pages are free; skips jobs whose prefix is being computed."""
        coming = (
            {prefix for job in self._running for prefix in self._pending_prefixes(job)}
            if self._waiting
            else set[Scoped]()
        )
        at = 0
        while at < len(self._waiting) and not self._full:
            job = self._waiting[at]
            if self._is_pending(job.request, coming):
                at += 1
                continue
            try:
                job.running = self.admit(job.request)
            except Exception as error:  # an error of a constraint ends its own job only
                del self._waiting[at]
                deliver(job, error=error)
                continue
            if job.running is None:
                self._full = True
                return
            with self._thread.changed:
                del self._waiting[at]
                self._running.append(job)
            self._step(job, job.running.start)
            coming.update(self._pending_prefixes(job))

    def _pending_prefixes(self, job: Job) -> Iterator[Scoped]:
        """Yields the prefixes, to whole pages, that will be stored when the job's prompt is read; with their scope."""
        running = job.running
        reads = self.index.enabled and running is not None and running.segment is not None and running.segment.prefill
        scope = job.request.cache_scope
        return ((scope, prefix) for prefix in page_prefixes(job.request.prompt)) if reads else iter(())

    def _is_pending(self, request: DecodeRequest | Scoring, coming: Set[Scoped]) -> bool:
        """Returns whether the first page that `request` would have to compute is being computed by another job."""
        prompt, scope = request.prompt, request.cache_scope
        if not coming or len(prompt) <= PAGE:
            return False
        end = (len(self.index.match(prompt[:-1], scope).pages) + 1) * PAGE
        return end < len(prompt) and (scope, prompt[:end]) in coming

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
                deliver(job, error=error)
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
        steps = [
            partial(running.feed, *answer, replayed=batch.replayed)
            for running, answer in zip(requests, answers, strict=True)
        ]
        bad = [at for at, answer in enumerate(answers) if not finite(*answer)]
        if bad:
            where = first_bad_part(batch, self.runner, self.pool)
            error = NonFiniteLogits(self.passes, where, str(self.pool.keys.dtype))
            return [partial(_refuse, error) if at in bad else step for at, step in enumerate(steps)]
        return list(steps)

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
                output = running.context.output
                job.watch(Update(tuple(output.tokens), running.context.tentative, tuple(output.sections)))
            if running.segment is None:
                self.index.insert(running.cached_tokens, running.pages, running.request.cache_scope)
                result = running.result()
                self._release(job)
                deliver(job, result=result)
        except Exception as error:
            self._release(job)
            deliver(job, error=error)

    def _share_prompt(self, running: RunningRequest) -> None:
        """Stores a prompt's whole pages in the prefix index as soon as they are written."""
        known = running.cached_tokens
        self.index.insert(known[: len(known) // PAGE * PAGE], running.pages, running.request.cache_scope)

    def _release(self, job: Job) -> None:
        """Closes the mode and gives its pages back."""
        with self._thread.changed:
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


def _refuse(error: Exception, _: Pass) -> None:
    raise error
