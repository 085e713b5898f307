"""Runs calls under all targets, one call after the other, so that whatever drifts meets all targets alike.

Knows targets, calls and scores. Does not know groups or prices. Each call is answered by every target before the next
one (or beside `concurrency - 1` others), by turns with another target first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from trimode.engine.errors import TrimodeError

from ..calls import RecordedCall
from ..readings import Reading, Store
from ..scoring.agreement import agreement
from .targets import RECORDED, Reply, Target


class Meter:
    """Divides a machine's time among the calls in it: each moment counts equally for all of them."""

    def __init__(self) -> None:
        self._lock, self._calls, self._each, self._at = threading.Lock(), 0, 0.0, 0.0

    def enter(self) -> float:
        """Counts one more call, and returns its beginning, for `leave`."""
        return self._step(1)

    def leave(self, begin: float) -> float:
        """Counts one call less, and returns the seconds that were its own."""
        return self._step(-1) - begin

    def _step(self, change: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._calls:
                self._each += (now - self._at) / self._calls
            self._calls, self._at = self._calls + change, now
            return self._each


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """All readings, in the order of calls and targets. `earlier`: how many of them came out of the store."""

    readings: tuple[Reading, ...]
    earlier: int


class Runner:
    """Answers calls by targets and scores the answers."""

    def __init__(self, targets: Sequence[Target], store: Store, concurrency: int = 1) -> None:
        self._targets, self._store, self._concurrency = targets, store, concurrency
        self._meters = {target.engine: Meter() for target in targets}

    def run(self, calls: Sequence[RecordedCall], advance: Callable[[], object] = lambda: None) -> Ran:
        """Returns a reading for each call and target. `advance` is called for each of them."""
        before = [self._store.get(self._key(call, target)) for call in calls for target in self._targets]
        with ThreadPoolExecutor(self._concurrency) as pool:
            found = list(pool.map(lambda number, call: self._call(number, call, advance), range(len(calls)), calls))
        earlier = sum(one is not None for one in before)
        return Ran(readings=tuple(reading for each in found for reading in each), earlier=earlier)

    def _call(self, number: int, call: RecordedCall, advance: Callable[[], object]) -> list[Reading]:
        count = len(self._targets)
        order = [self._targets[(number + at) % count] for at in range(count)]
        found = {target.name: self._reading(call, target, advance) for target in order}
        return [found[target.name] for target in self._targets]

    def _reading(self, call: RecordedCall, target: Target, advance: Callable[[], object]) -> Reading:
        kept = self._store.get(self._key(call, target))
        if kept is None:
            kept = self._measured(call, target)
            self._store.add(kept)
        advance()
        return kept

    def _measured(self, call: RecordedCall, target: Target) -> Reading:
        name, _, run, identity = self._key(call, target)
        meter = self._meters[target.engine]
        try:
            target.prepare(call)
            begin = meter.enter()
            try:
                reply = target.answer(call)
            finally:
                share = meter.leave(begin)
        except TrimodeError as error:
            return Reading(call=name, sha256=call.sha256, run=run, identity=identity, error=type(error).__name__)
        return scored(call, run, identity, reply, share)

    @staticmethod
    def _key(call: RecordedCall, target: Target) -> tuple[str, str, str, str]:
        return call.id, call.sha256, target.name, target.identity


def scored(call: RecordedCall, run: str, identity: str, reply: Reply, share: float | None) -> Reading:
    """Returns a reply as a reading."""
    return Reading(
        call=call.id,
        sha256=call.sha256,
        run=run,
        identity=identity,
        **asdict(agreement(call, reply.answer)),
        first=reply.times.first,
        last=reply.times.last,
        share=share,
        input=reply.usage.input,
        cached=reply.usage.cached,
        output=reply.usage.output,
        passes=reply.usage.passes,
    )


def recorded_reading(call: RecordedCall) -> Reading:
    """Returns what the log itself says of a call, as a reading of the run `recorded`. The call has an answer."""
    assert call.answer is not None
    reply = Reply(answer=call.answer, times=call.times, usage=call.usage)
    return scored(call, RECORDED, "", reply, call.times.last)
