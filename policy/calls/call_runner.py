"""How an engine runs one resolved `Call`: for threads and for tasks, at once or piece by piece, recorded all the way.

Knows calls, recordings and futures of the token engine. Does not know checkpoints, or the words of a call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Final

from trimode.engine.jobs import Update
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.request import DecodeRequest, ScoreRequest
from trimode.engine.result import DecodeResult, ScoreResult
from trimode.engine.token_engine import TokenEngine, result_of

from ..audit import PieceOf, Runtime
from ..selection import Auto, DecodePlan, Layer, StepContext, Weights
from .call import Call
from .finish import finished
from .precedence import Choosing, planned
from .recording import Recording
from .result import Result
from .scope import Scope, Spend, current_scope
from .stream import Growing, StreamEvent
from .translator import Translator

LOG: Final = logging.getLogger("trimode")
"""Silent unless the application sets a level: INFO says what was loaded, DEBUG why each mode was chosen."""
LONG_PROMPT: Final = 1 << 14
"""Characters; fewer take less time to encode than a pass does."""
Arrived = tuple[float, Update]
"""An update, and when it arrived by `time.perf_counter`."""


class CallRunner(ABC):
    """Turns a `Call` into a `Result`, its span and its record. `Engine` adds the weights and the words of a call."""

    tokens: TokenEngine
    tokenizer: Tokenizer
    translator: Translator

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, translator: Translator) -> None:
        self.tokens, self.tokenizer, self.translator = tokens, tokenizer, translator
        self._piece: PieceOf = lru_cache(maxsize=1 << 16)(lambda token: tokenizer.decode([token]))

    @cached_property
    @abstractmethod
    def runtime(self) -> Runtime:
        """What decodes, with digests: part of every record."""

    @cached_property
    @abstractmethod
    def auto(self) -> Auto:
        """The policy that chooses where a call has a deadline and no mode."""

    @cached_property
    @abstractmethod
    def weights(self) -> Weights:
        """What the package's table has to know of the weights."""

    def planned(self, context: StepContext, given: Sequence[Layer], below: Sequence[Layer] = ()) -> DecodePlan:
        """The plan of a call made here, by the same chain as a step's. `below`: what is weaker than any policy."""
        return planned(Choosing(self, self.weights, self.live, lambda: self.auto), context, given, below)

    def run(self, call: Call) -> Result:
        """One resolved call, start to end, with its span and, in a session that keeps them, its record.

        The session's limits count it. Raises BudgetExceeded where they do not let it start, and CheckFailed where
        `call` asks for "checked" and this attempt does not hold; nothing is tried again here.
        """
        with current_scope().spending(call) as spending, self.recording(spending.call) as recording:
            self._prepare(recording)
            return self._counted(spending, self._finish(recording, awaited(self._submit(recording))))

    async def arun(self, call: Call) -> Result:
        """`run` for tasks."""
        with current_scope().spending(call) as spending, self.recording(spending.call) as recording:
            await self._aprepare(recording)
            return self._counted(spending, self._finish(recording, await asyncio.wrap_future(self._submit(recording))))

    def events(self, recording: Recording) -> Generator[StreamEvent]:
        """`run`, piece by piece, wherever it is read. What was shown is not tried again."""
        updates: SimpleQueue[Arrived | None] = SimpleQueue()
        with self._limited(recording) as spending, recording:
            request = self._prepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self._submit(recording, lambda update: updates.put((time.perf_counter(), update)))
            future.add_done_callback(lambda _: updates.put(None))
            try:
                while (arrived := updates.get()) is not None:
                    for event in _shown(growing, recording, *arrived):
                        self._seen(recording.scope, spending, event)
                        yield event
                result = self._counted(spending, self._finish(recording, result_of(future)))
            finally:
                future.cancel()
        yield growing.last(result)

    async def aevents(self, recording: Recording) -> AsyncGenerator[StreamEvent]:
        """`events` for tasks."""
        updates: asyncio.Queue[Arrived | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(update: Update | None) -> None:
            arrived = None if update is None else (time.perf_counter(), update)
            loop.call_soon_threadsafe(updates.put_nowait, arrived)

        with self._limited(recording) as spending, recording:
            request = await self._aprepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self._submit(recording, put)
            future.add_done_callback(lambda _: put(None))
            try:
                while (arrived := await updates.get()) is not None:
                    for event in _shown(growing, recording, *arrived):
                        self._seen(recording.scope, spending, event)
                        yield event
                result = self._counted(spending, self._finish(recording, result_of(future)))
            finally:
                future.cancel()
        yield growing.last(result)

    @contextmanager
    def _limited(self, recording: Recording) -> Generator[Spend]:
        """Surrounds a streamed call: it is cut to what the limits of its session leave."""
        with recording.scope.spending(recording.call) as spending:
            recording.call = spending.call
            yield spending

    def _seen(self, scope: Scope, spending: Spend, event: StreamEvent) -> None:
        """Counts tokens that were shown, for a stream that is left early."""
        if scope.limits is not None and not event.provisional:
            spending.shown += len(self.tokenizer.encode(event.text))

    @staticmethod
    def _counted(spending: Spend, result: Result) -> Result:
        spending.count(result.stats)
        return result

    def recording(self, call: Call, streamed: bool = False) -> Recording:
        """What `events` takes: it belongs to the session in which this is called."""
        call = self._timed(call)
        LOG.debug("step %r (%s): %s", call.step, call.kind, call.plan.reason)
        return Recording(call, self.runtime, self.tokenizer.decode, self._piece, streamed)

    @property
    def live(self) -> int:
        """Calls that run or wait now."""
        return self.tokens.scheduler.running + self.tokens.scheduler.waiting

    def _timed(self, call: Call) -> Call:
        """The call itself; with a deadline, and a mode that nobody named, in the fastest mode that is allowed."""
        plan = call.plan
        if call.kind == "choice" or plan.settings.deadline is None or plan.named or plan.forecast is not None:
            return call
        context = replace(plan.context, others=self.live)
        return replace(call, plan=self.auto.choose_mode(replace(plan, context=context)))

    def _prepare(self, recording: Recording) -> DecodeRequest | ScoreRequest:
        call = recording.call
        recording.request, notes = self.translator.asked(call, recording.scope.trim)
        recording.notes += [*call.notes, *notes]
        if call.schema is not None:
            dropped = self.translator.held(call).dropped
            recording.notes += [one.note for one in dropped]
            recording.guarantee = "checked" if dropped or call.retried else "grammar"
        return recording.request

    async def _aprepare(self, recording: Recording) -> DecodeRequest | ScoreRequest:
        """`_prepare`; a long prompt is encoded in a thread, so that it holds up no other task."""
        if recording.call.characters < LONG_PROMPT:
            return self._prepare(recording)
        return await asyncio.to_thread(self._prepare, recording)

    def _submit(self, recording: Recording, watch: Callable[[Update], None] | None = None) -> Future[Any]:
        assert recording.request is not None
        return self.tokens.submit(recording.request, watch)

    def _finish(self, recording: Recording, found: DecodeResult | ScoreResult) -> Result:
        recording.finished = finished(self.translator, recording, found, self.tokens.model.adapter is not None)
        if LOG.isEnabledFor(logging.DEBUG):
            _log_switches(recording.call, recording.finished)
        return recording.finished


def _shown(growing: Growing, recording: Recording, at: float, update: Update) -> Sequence[StreamEvent]:
    """The events of one update, which is a chunk where there are any, however long the caller takes to read it."""
    events = tuple(growing.feed(update))
    if events:
        recording.chunk(at)
    return events


def _log_switches(call: Call, result: Result) -> None:
    for before, after in pairwise(result.trace):
        if after.switch:
            LOG.debug("step %r (%s): %s > %s: %s", call.step, call.kind, before.mode, after.mode, after.switch)


def awaited(future: Future[Any]) -> Any:
    """What the token engine found; where the caller is interrupted meanwhile, the call is cancelled."""
    try:
        return result_of(future)
    finally:
        future.cancel()
