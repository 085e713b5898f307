"""Prometheus metrics of the server: queue, memory, tokens, acceptance, times to and between pieces.

Knows prometheus_client, calls and results. Does not know HTTP. Numbers that the engine keeps itself are read when they
are asked for; the others are counted here.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from trimode.policy.calls import Call, Engine, Result

from .fair_queue import FairQueue

_STEPS: Final = ("mode", "kind")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BETWEEN: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


@dataclass(slots=True)
class Timer:
    """Arrival times of the pieces of one streamed call."""

    meters: Meters
    labels: tuple[str, ...]
    last: float = field(default_factory=time.perf_counter)
    pieces: int = 0

    def piece(self) -> None:
        """Observes the time since the piece before; for the first one, since the call began."""
        now = time.perf_counter()
        series = self.meters.between if self.pieces else self.meters.first
        series.labels(*self.labels).observe(now - self.last)
        self.last, self.pieces = now, self.pieces + 1


class Meters:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, engine: Engine, queue: FairQueue) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self.registry.register(_Now(engine, queue))
        counter, labels = self._counter, _STEPS
        self._calls = counter("calls", "Calls that ended, by how.", "outcome", "kind")
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("cached_tokens", "Tokens of prompts found in the prefix cache.")
        self._output = counter("output_tokens", "Tokens of outputs.", *labels)
        self._drafted = counter("drafted_tokens", "Tokens that were drafted.", *labels)
        self._accepted = counter("accepted_tokens", "Drafted tokens that became output.", *labels)
        self._forced = counter("forced_tokens", "Tokens that a schema or budget left no choice of.", *labels)
        self._passes = counter("forward_passes", "Forward passes, without prefill.", *labels)
        self._requests = counter("http_requests", "Requests, by path and status.", "path", "status")
        self.first: Histogram = self._histogram(
            "time_to_first_piece_seconds", "From a call's slot to its first piece.", _SECONDS
        )
        self.between: Histogram = self._histogram(
            "time_between_pieces_seconds", "From piece to piece of a stream.", _BETWEEN
        )
        self._seconds = self._histogram("call_seconds", "From a call's slot to its end.", _SECONDS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trimode_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"trimode_{name}", text, _STEPS, registry=self.registry, buckets=buckets)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def request(self, path: str, status: int) -> None:
        """Counts a request that was answered. `path`: of the route, not of the request, so that there are few."""
        self._requests.labels(path, str(status)).inc()

    @contextmanager
    def timer(self, call: Call) -> Generator[Timer]:
        """Times a call while the block runs, and counts how it ended."""
        labels, began = (call.plan.mode, call.kind), time.perf_counter()
        outcome = "finished"
        try:
            yield Timer(self, labels)
        except Exception:
            outcome = "failed"
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            self._calls.labels(outcome, call.kind).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - began)

    def finished(self, call: Call, result: Result) -> None:
        """Counts the tokens of a finished call, each under the mode that made it."""
        stats = result.stats
        self._prompt.inc(stats.prompt_tokens)
        self._cached.inc(stats.cached_tokens)
        for mode in dict.fromkeys(round_.mode for round_ in result.trace):
            rounds = [round_ for round_ in result.trace if round_.mode == mode]
            labels, origins = (mode, call.kind), "".join(round_.origins for round_ in rounds)
            self._output.labels(*labels).inc(len(origins))
            self._drafted.labels(*labels).inc(sum(round_.drafted for round_ in rounds))
            self._accepted.labels(*labels).inc(origins.count("a"))
            self._forced.labels(*labels).inc(origins.count("f") + origins.count("b"))
            self._passes.labels(*labels).inc(sum(round_.forward_passes for round_ in rounds))


@dataclass(frozen=True, slots=True)
class _Now:
    """Gauges read from queue and engine when they are asked for."""

    engine: Engine
    queue: FairQueue

    def collect(self) -> Iterator[Metric]:
        yield _gauge("trimode_queue_waiting", "Calls that wait for a slot.", self.queue.waiting)
        yield _gauge("trimode_slots_used", "Calls that have a slot.", self.queue.running)
        yield _gauge("trimode_engine_live", "Calls that run or wait in the engine.", self.engine.live)
        pool: Any = getattr(self.engine.tokens, "pool", None)
        if pool is not None:
            yield _gauge("trimode_kv_pages", "Pages for keys and values.", pool.pages)
            yield _gauge("trimode_kv_pages_free", "Pages that nothing refers to.", pool.free)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
