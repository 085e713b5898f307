"""One request in the scheduler: its generator, the segment that waits for a pass, its pages and counts.

Knows requests and results. Does not know threads, other requests or the model.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from .decoding.run import DecodeState
from .decoding.sampling import Sampler
from .decoding.segment import Reply, SampledTokens, Segment, reply
from .decoding.state import CacheState
from .request import DecodeRequest
from .result import DecodeResult, Mode, ModeRun, Stats
from .scoring import Scoring


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass as its requests see it: seconds of its arithmetic, rows and calls in it."""

    seconds: float
    rows: int
    calls: int


@dataclass(frozen=True, slots=True)
class ChainedPass:
    """The result of a pass that was queued right after another one, whose seconds include this one's."""

    rows: Tensor
    sampled: SampledTokens | None
    shared: Pass


@dataclass(slots=True)
class ModeRunTotals:
    """A `ModeRun` under construction."""

    passes: int = 0
    rows: int = 0
    pass_rows: int = 0
    pass_calls: int = 0
    seconds: float = 0.0

    def add(self, rows: int, shared: Pass, seconds: float) -> None:
        self.passes += 1
        self.rows += rows
        self.pass_rows += shared.rows
        self.pass_calls += shared.calls
        self.seconds += seconds

    def of(self, mode: Mode, section: str) -> ModeRun:
        return ModeRun(
            mode=mode,
            section=section,
            passes=self.passes,
            rows=self.rows,
            pass_rows=self.pass_rows,
            pass_calls=self.pass_calls,
            seconds=self.seconds,
        )


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A request with its state.

    `pages` have the context's keys and values; `reused`: prompt tokens found in the cache.
    """

    request: DecodeRequest | Scoring
    context: CacheState
    passes: Generator[Segment, Reply, Any]
    pages: list[int]
    sampler: Sampler
    reused: int
    kernels: str = ""
    segment: Segment | None = None
    returned: Any = None
    begin: float = field(default_factory=time.perf_counter)
    end: float = 0.0
    prefill_seconds: float = 0.0
    prefill_passes: int = 0
    forward_passes: int = 0
    query_tokens: int = 0
    mode_runs: dict[tuple[Mode, str], ModeRunTotals] = field(default_factory=dict)
    resumed: float = 0.0
    graph_passes: int = 0

    def start(self) -> None:
        self._resume(None)

    def feed(
        self,
        rows: Tensor,
        sampled: SampledTokens | None,
        shared: Pass,
        replayed: int = 0,
        then: ChainedPass | None = None,
    ) -> None:
        """Hands the mode the waiting segment's read rows and the tokens sampled from them, and takes its next segment.

        `replayed`: how many of its passes were graphs. `then`: the result of the chained pass.
        """
        segment, begin = self.segment, self.resumed
        assert segment is not None
        # Read before the mode resumes, which may switch it.
        run = _mode_of(self.context) if isinstance(self.context, DecodeState) else None
        answer = reply(segment, rows, sampled, self.sampler)
        if then is not None and segment.then is not None:
            answer = replace(answer, then=reply(segment.then, then.rows, then.sampled, self.sampler))
        self._resume(answer)
        self.graph_passes += replayed
        if segment.prefill:
            self.prefill_passes += 1
            self.prefill_seconds += shared.seconds
        else:
            self._count(run, segment, shared, self.resumed - begin)
        # A verification of a text that had ended before is no pass of the call: alone, it would not have run.
        if then is not None and segment.then is not None and self.context.cached > segment.then.start:
            self._count(run, segment.then, then.shared, 0.0)

    def _count(self, run: tuple[Mode, str] | None, segment: Segment, shared: Pass, seconds: float) -> None:
        """Counts one forward pass after the prompt's."""
        self.forward_passes += 1
        self.query_tokens += segment.rows
        if run is not None:
            self.mode_runs.setdefault(run, ModeRunTotals()).add(segment.rows, shared, seconds)

    @property
    def can_chain(self) -> bool:
        """Whether the waiting segment's `then` may run with it: not if passes or seconds are limited, or logits biased.

        A limit counts single passes; biased logits are sampled by the host's request, not by the pass.
        """
        request = self.request
        limited = isinstance(request, DecodeRequest) and (
            request.max_passes is not None or request.max_seconds is not None
        )
        return self.segment is not None and self.segment.then is not None and not limited and not self.sampler.biased

    def close(self) -> None:
        self.passes.close()

    def limit(self) -> None:
        """Ends the output with what is committed, if the request's limit of passes or seconds is reached.

        A constrained output continues to where it is complete, because half of it would be invalid.
        """
        request, run = self.request, self.context
        if self.segment is None or not isinstance(run, DecodeState) or not isinstance(request, DecodeRequest):
            return
        passes, now = self.prefill_passes + self.forward_passes, time.perf_counter()
        spent = request.max_passes is not None and passes >= request.max_passes
        late = request.max_seconds is not None and now - self.begin >= request.max_seconds
        if (spent or late) and run.gate.complete:
            run.output.give_up(run.mode, self.forward_passes)
            self.segment, self.end = None, now

    @property
    def cached_tokens(self) -> list[int]:
        """Tokens whose keys and values are in the pages."""
        tokens = list(self.request.prompt)
        if isinstance(self.context, DecodeState):
            tokens += self.context.output.tokens
        elif isinstance(self.request, Scoring):
            tokens += self.request.cached
        return tokens[: self.context.cached]

    def result(self) -> Any:
        """Returns the request's kind of result."""
        if isinstance(self.request, Scoring):
            return self.request.result(self.returned, self._stats())
        assert isinstance(self.context, DecodeState)
        output = self.context.output
        assert output.finish is not None
        return DecodeResult(
            token_ids=tuple(output.tokens),
            text=output.text,
            finish_reason=output.finish,
            rounds=tuple(output.rounds),
            stats=self._stats(),
        )

    def _resume(self, answer: Reply | None) -> None:
        try:
            self.segment = next(self.passes) if answer is None else self.passes.send(answer)
        except StopIteration as stop:
            self.segment, self.returned, self.end = None, stop.value, time.perf_counter()
        self.resumed = time.perf_counter()

    def _stats(self) -> Stats:
        output = self.context.output if isinstance(self.context, DecodeState) else None
        rounds = output.rounds if output else []
        origins = "".join(r.origins for r in rounds)
        return Stats(
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.reused,
            output_tokens=len(origins),
            prefill_passes=self.prefill_passes,
            forward_passes=self.forward_passes,
            drafted=sum(r.drafted for r in rounds),
            accepted=origins.count("a"),
            corrected=origins.count("c") + origins.count("r"),
            forced=origins.count("f") + origins.count("b"),
            repaired=origins.count("r"),
            seconds=self.end - self.begin,
            prefill_seconds=self.prefill_seconds,
            kernels=self.kernels,
            query_tokens=self.query_tokens,
            mode_runs=tuple(sums.of(*mode) for mode, sums in self.mode_runs.items()),
            graph_passes=self.graph_passes,
        )


def _mode_of(run: DecodeState) -> tuple[Mode, str]:
    """Returns the mode that runs and the kind of section that it writes, "" for an output without sections."""
    return run.mode, "" if run.section is None else run.section.kind
