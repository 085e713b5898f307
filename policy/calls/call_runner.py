"""Runs one resolved `Call` on an engine, for threads and asyncio tasks, at once or as a stream, with its recording.

Knows calls, recordings and futures of the token engine. Does not know checkpoints, or the keyword arguments of a call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Final

from trimode.engine.jobs import Update
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult
from trimode.engine.scoring import ScoreRequest
from trimode.engine.token_engine import TokenEngine, result_of

from ..audit import PieceOf, Runtime
from ..remote import RemoteRequest
from ..selection import Auto, DecodePlan, Layer, PoolAuto, StepContext, Weights
from ..turns import CallReader, call_ids
from .call import Call
from .finish import finished
from .precedence import TargetEngine, planned
from .recording import Recording
from .result import Result
from .scope import Scope, Spend, current_scope
from .stream import IncrementalDetokenizer, StreamEvent, TurnDetokenizer
from .translator import Translator

LOG: Final = logging.getLogger("trimode")
"""Logger without output unless the application sets a level: INFO logs loading, DEBUG why each mode was chosen."""
LONG_PROMPT: Final = 1 << 14
"""Number of characters from which tokenizing may take longer than a forward pass."""
Stoppable = DecodeRequest | ScoreRequest | RemoteRequest
"""Requests of calls that may be streamed; all have stop strings."""
Arrived = tuple[float, Update]
"""Pair of arrival time (`time.perf_counter` seconds) and update."""


class CallRunner(ABC):
    """Turns a `Call` into a `Result`, a span and a record. `Engine` adds weights and the calls' keyword arguments."""

    tokens: TokenEngine
    tokenizer: Tokenizer
    translator: Translator

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, translator: Translator) -> None:
        self.tokens, self.tokenizer, self.translator = tokens, tokenizer, translator
        self._piece: PieceOf = lru_cache(maxsize=1 << 16)(lambda token: tokenizer.decode([token]))

    @cached_property
    @abstractmethod
    def runtime(self) -> Runtime:
        """Model, tokenizer, device and kernels, with digests: part of every record."""

    @cached_property
    @abstractmethod
    def auto(self) -> Auto | PoolAuto:
        """The policy that chooses the mode of a call with a deadline and no mode."""

    @cached_property
    @abstractmethod
    def weights(self) -> Weights:
        """What the package's table needs to know about the weights."""

    def planned(self, context: StepContext, given: Sequence[Layer], below: Sequence[Layer] = ()) -> DecodePlan:
        """Returns the plan of a call, by the same precedence as a step's. `below`: settings weaker than any policy."""
        return planned(TargetEngine(self, self.weights, self.live, lambda: self.auto), context, given, below)

    def run(self, call: Call) -> Result:
        """Runs one resolved call, with its span and, in a session with an audit file, its record.

        The call counts against the session's limits. Raises BudgetExceeded if they do not let it start, and CheckFailed
        if `call` asks for "checked" and this attempt violates the schema; `retries.py` makes further attempts.
        """
        return self._run(call, self._prepare)

    def _run(self, call: Call, prepare: Callable[[Recording], object]) -> Result:
        """`run`, with `prepare` to fill in the recording's request, notes and guarantee."""
        with current_scope().spending(call) as spending, self.recording(spending.call) as recording:
            prepare(recording)
            return self._counted(spending, self._finish(recording, _awaited(self._submit(recording))))

    async def arun(self, call: Call) -> Result:
        """`run` for asyncio tasks."""
        return await self._arun(call, self._aprepare)

    async def _arun(self, call: Call, prepare: Callable[[Recording], Awaitable[object]]) -> Result:
        """`_run` for asyncio tasks."""
        with current_scope().spending(call) as spending, self.recording(spending.call) as recording:
            await prepare(recording)
            return self._counted(spending, self._finish(recording, await asyncio.wrap_future(self._submit(recording))))

    def events(self, recording: Recording) -> Generator[StreamEvent]:
        """Yields the events of one call. `recording` fixes the session, wherever the stream is read. Never retried."""
        updates: SimpleQueue[Arrived | None] = SimpleQueue()
        with self._limited(recording) as spending, recording:
            request = self._prepare(recording)
            detokenizer = self._detokenizer(recording, request.stop)
            future = self._submit(recording, lambda update: updates.put((time.perf_counter(), update)))
            future.add_done_callback(lambda _: updates.put(None))
            try:
                while (arrived := updates.get()) is not None:
                    for event in _shown(detokenizer, recording, *arrived):
                        self._count_shown(recording.scope, spending, event)
                        yield event
                result = self._counted(spending, self._finish(recording, result_of(future)))
            finally:
                future.cancel()
        yield from detokenizer.last(result)

    async def aevents(self, recording: Recording) -> AsyncGenerator[StreamEvent]:
        """`events` for asyncio tasks."""
        updates: asyncio.Queue[Arrived | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(update: Update | None) -> None:
            arrived = None if update is None else (time.perf_counter(), update)
            loop.call_soon_threadsafe(updates.put_nowait, arrived)

        with self._limited(recording) as spending, recording:
            request = await self._aprepare(recording)
            detokenizer = self._detokenizer(recording, request.stop)
            future = self._submit(recording, put)
            future.add_done_callback(lambda _: put(None))
            try:
                while (arrived := await updates.get()) is not None:
                    for event in _shown(detokenizer, recording, *arrived):
                        self._count_shown(recording.scope, spending, event)
                        yield event
                result = self._counted(spending, self._finish(recording, result_of(future)))
            finally:
                future.cancel()
        for event in detokenizer.last(result):
            yield event

    def _detokenizer(self, recording: Recording, stop: Sequence[str]) -> IncrementalDetokenizer:
        decode, turn = self.tokenizer.decode, recording.call.turn
        if turn is None:
            return IncrementalDetokenizer(decode, stop)
        ids = call_ids(recording.id, recording.call.used_ids)
        return TurnDetokenizer(decode, stop, markers=self.translator.markers(turn), calls=CallReader(ids))

    @contextmanager
    def _limited(self, recording: Recording) -> Generator[Spend]:
        """Surrounds a streamed call and lowers its limits to what its session has left."""
        with recording.scope.spending(recording.call) as spending:
            recording.call = spending.call
            yield spending

    def _count_shown(self, scope: Scope, spending: Spend, event: StreamEvent) -> None:
        """Counts the tokens that were yielded, because a stream that is left early has no other count."""
        if scope.limits is not None and not event.provisional:
            spending.shown += len(self.tokenizer.encode(event.text))

    @staticmethod
    def _counted(spending: Spend, result: Result) -> Result:
        spending.count(result.stats)
        return result

    def recording(self, call: Call, streamed: bool = False) -> Recording:
        """Returns a recording for `events`, in the caller's scope. If a deadline needs it, the mode is chosen now."""
        call = self._planned_for_deadline(call)
        LOG.debug("step %r (%s): %s", call.step, call.kind, call.plan.reason)
        return Recording(call, self.runtime, self.tokenizer.decode, self._piece, streamed)

    @property
    def live(self) -> int:
        """Number of calls that run or wait now."""
        return self.tokens.scheduler.running + self.tokens.scheduler.waiting

    def _planned_for_deadline(self, call: Call) -> Call:
        """Returns `call`, in the fastest allowed mode if it has a deadline and no mode was given."""
        plan = call.plan
        if call.kind == "choice" or plan.settings.deadline is None or plan.named or plan.forecast is not None:
            return call
        context = replace(plan.context, others=self.live)
        return replace(call, plan=self.auto.choose_mode(replace(plan, context=context)))

    def _prepare(self, recording: Recording) -> Stoppable:
        """Builds the request and fills in the recording's request, notes and guarantee."""
        call = recording.call = self.translator.written(recording.call)
        outputs = recording.scope.outputs_of(self)
        request, notes = self.translator.request_and_notes(call, recording.scope.trim, outputs)
        recording.request = request
        recording.notes += [*call.notes, *notes]
        if call.schema is not None or (call.turn is not None and call.turn.constrains):
            dropped = self.translator.dropped(call)
            recording.notes += [one.note for one in dropped]
            recording.guarantee = "checked" if dropped or call.retried else "grammar"
        return request

    async def _aprepare(self, recording: Recording) -> Stoppable:
        """`_prepare` for asyncio tasks; a long prompt is tokenized in a thread, so as not to block the event loop."""
        if recording.call.characters < LONG_PROMPT:
            return self._prepare(recording)
        return await asyncio.to_thread(self._prepare, recording)

    def _submit(self, recording: Recording, watch: Callable[[Update], None] | None = None) -> Future[Any]:
        assert recording.request is not None
        assert not isinstance(recording.request, RemoteRequest)
        return self.tokens.submit(recording.request, watch)

    def _finish(self, recording: Recording, found: Any) -> Result:
        """Returns the result of what the future of `_submit` gave, and fills in the recording."""
        if isinstance(found, DecodeResult) and (outputs := recording.scope.outputs_of(self)) is not None:
            outputs.add(found.token_ids)
        recording.finished = finished(self.translator, recording, found, self.tokens.model.adapter is not None)
        if LOG.isEnabledFor(logging.DEBUG):
            _log_switches(recording.call, recording.finished)
        return recording.finished


def _shown(
    detokenizer: IncrementalDetokenizer, recording: Recording, at: float, update: Update
) -> Sequence[StreamEvent]:
    """Returns the events of one update. If there are any, the span gets a chunk at the arrival time `at`, which
    does not depend on how fast the caller reads."""
    events = tuple(detokenizer.feed(update))
    if events:
        recording.chunk(at)
    return events


def _log_switches(call: Call, result: Result) -> None:
    for before, after in pairwise(result.trace):
        if after.switch:
            LOG.debug("step %r (%s): %s > %s: %s", call.step, call.kind, before.mode, after.mode, after.switch)


def _awaited(future: Future[Any]) -> Any:
    """Waits for the token engine's result and returns it; cancels the call if the caller is interrupted meanwhile."""
    try:
        return result_of(future)
    finally:
        future.cancel()
