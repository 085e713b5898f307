"""The scheduler: one background thread that serves every live request with one ragged pass after another.

Knows jobs, admission by pages, the order of a pass and who watches. Does not know modes: a job is a generator to it.
Requests join and leave between passes. Whoever came first is admitted first; decoding rows go into every pass, prompts
share what room is left in it, oldest first, so that none starves and none stalls the others. Where prompts that begin
alike come together, the first computes their common pages and the others wait for them.
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
from .request import DecodeRequest, ScoreRequest
from .running import Followed, Pass, RunningRequest
from .serving_thread import ServingThread

PASS_ROWS = 512
"""Rows after which a pass takes no further prompt."""


class Scheduler:
    """`admit` makes a job's RunningRequest, or None while its pages are in use; `waiting` jobs are at most `queue`.

    A forked process begins without jobs, pages in use and stored prefixes.
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
        self._live: list[Job] = []
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
            jobs = [*self._waiting, *self._live]
            self._thread.changed.notify()
        for job in jobs:
            job.future.cancel()
        self._thread.join()

    def begin_anew(self) -> None:
        """In a forked process: the thread and the threads that wait for its jobs are not there, nor who holds locks."""
        self._thread.forget()
        self._thread, self._full = ServingThread(self), False
        self._waiting, self._live = deque(), []
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
        return len(self._live)

    def serve(self) -> None:
        """Passes until nothing waits or runs."""
        while self.busy:
            self._leave()
            self._join()
            self._pass()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._live)

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def fail(self, error: BaseException) -> None:
        """What should never be raised ends the engine: every job gets it as EngineStopped, and so do later ones."""
        with self._thread.changed:
            self._closed = EngineStopped(error)
            jobs = [*self._waiting, *self._live]
            self._waiting, self._live = deque(), []
        for job in jobs:
            own = EngineStopped(error)
            own.__cause__ = error
            deliver(job, error=own)

    def _leave(self) -> None:
        """Lets go of cancelled jobs."""
        for job in [job for job in self._live if job.future.cancelled()]:
            self._release(job)
        with self._thread.changed:
            kept = deque(job for job in self._waiting if not job.future.cancelled())
            self._full = self._full and len(kept) == len(self._waiting)  # the next in line may need less
            self._waiting = kept

    def _join(self) -> None:
        """Admits waiting jobs, oldest first, as long as their pages are free; passes over those whose prefix comes."""
        coming = {prefix for job in self._live for prefix in self._coming(job)} if self._waiting else set[Tokens]()
        at = 0
        while at < len(self._waiting) and not self._full:
            job = self._waiting[at]
            if self._comes(job.request.prompt, coming):
                at += 1
                continue
            try:
                job.live = self.admit(job.request)
            except Exception as error:  # whatever a constraint raises belongs to its job alone
                del self._waiting[at]
                deliver(job, error=error)
                continue
            if job.live is None:
                self._full = True
                return
            with self._thread.changed:
                del self._waiting[at]
                self._live.append(job)
            self._guarded(job, job.live.start)
            coming.update(self._coming(job))

    def _coming(self, job: Job) -> Iterator[Tokens]:
        """The prefixes, to whole pages, that will be stored when the job's prompt is read."""
        live = job.live
        reads = self.index.enabled and live is not None and live.segment is not None and live.segment.prefill
        return page_prefixes(job.request.prompt) if reads else iter(())

    def _comes(self, prompt: Tokens, coming: Set[Tokens]) -> bool:
        """Whether the first page that `prompt` would have to compute is among those that are on their way."""
        if not coming or len(prompt) <= PAGE:
            return False
        end = (len(self.index.match(prompt[:-1]).pages) + 1) * PAGE
        return end < len(prompt) and prompt[:end] in coming

    def _pass(self) -> None:
        jobs = self._chosen()
        if not jobs:
            return
        begin = time.perf_counter()
        lives = [live for job in jobs if (live := job.live) is not None]
        segments = [segment for live in lives if (segment := live.segment) is not None]
        try:
            moves = self._ran(lives, segments)
        except Exception as error:  # out of memory, say: no job of this pass can go on
            for job in jobs:
                self._release(job)
                deliver(job, error=error)
            return
        rows = sum([segment.rows for segment in segments])
        shared = Pass(seconds=time.perf_counter() - begin, rows=rows, calls=len(segments))
        for job, move in zip(jobs, moves, strict=True):
            self._guarded(job, partial(move, shared))

    def _ran(self, lives: Sequence[RunningRequest], segments: Sequence[Segment]) -> list[Callable[[Pass], None]]:
        """Runs the segments, and what follows them where that needs no look at what they find; then how jobs go on."""
        tables, samplers = [live.pages for live in lives], [live.sampler for live in lives]
        if chained(self.runner, segments) and all(live.chains for live in lives):
            pairs, graphs = cycle(segments, tables, self.runner, self.pool, samplers, self.graphs)
            self.passes += 2
            rows = sum([segment.then.rows for segment in segments if segment.then is not None])
            second = Pass(seconds=0.0, rows=rows, calls=len(segments))
            return [
                partial(live.feed, *first, replayed=graphs, then=Followed(*then, second))
                for live, (first, then) in zip(lives, pairs, strict=True)
            ]
        batch = Batch(segments, tables)
        answers = batch.forward(self.runner, self.pool, samplers, self.graphs)
        self.passes += 1
        moves = [
            partial(live.feed, *answer, replayed=batch.replayed) for live, answer in zip(lives, answers, strict=True)
        ]
        bad = [at for at, answer in enumerate(answers) if not finite(*answer)]
        if bad:
            where = first_bad_part(batch, self.runner, self.pool)
            error = NonFiniteLogits(self.passes, where, str(self.pool.keys.dtype))
            return [partial(_refuse, error) if at in bad else move for at, move in enumerate(moves)]
        return list(moves)

    def _chosen(self) -> list[Job]:
        """The jobs of the next pass: all that decode, and prompts up to PASS_ROWS, one at least."""
        waiting = [(job, segment) for job in self._live if job.live and (segment := job.live.segment)]
        chosen = [job for job, segment in waiting if not segment.prefill]
        rows = sum(segment.rows for _, segment in waiting if not segment.prefill)
        for job, segment in waiting:
            if segment.prefill and (rows + segment.rows <= PASS_ROWS or not _prefills(chosen)):
                chosen.append(job)
                rows += segment.rows
        return chosen

    def _guarded(self, job: Job, move: Callable[[], None]) -> None:
        """One move of a job; what it raises ends that job alone."""
        live = job.live
        assert live is not None
        prefill = live.segment is not None and live.segment.prefill
        try:
            move()
            live.limit()
            if prefill:
                self._share(live)
            if job.watch is not None and isinstance(live.context, DecodeState):
                job.watch(Update(tuple(live.context.output.tokens), live.context.tentative))
            if live.segment is None:
                self.index.insert(live.known, live.pages)
                result = live.result()
                self._release(job)
                deliver(job, result=result)
        except Exception as error:
            self._release(job)
            deliver(job, error=error)

    def _share(self, live: RunningRequest) -> None:
        """A prompt's whole pages serve others as soon as they are written."""
        known = live.known
        self.index.insert(known[: len(known) // PAGE * PAGE], live.pages)

    def _release(self, job: Job) -> None:
        """Closes the mode and gives its pages back."""
        with self._thread.changed:
            if job in self._live:
                self._live.remove(job)
        if job.live is not None:
            job.live.close()
            self.pool.drop(job.live.pages)
            job.live, self._full = None, False


def _prefills(jobs: Sequence[Job]) -> bool:
    return any(job.live is not None and job.live.segment is not None and job.live.segment.prefill for job in jobs)


def _refuse(error: Exception, _: Pass) -> None:
    raise error
