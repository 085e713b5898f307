"""Calibrates the cost model: measures real passes for about a second and caches the result on disk.

Knows the engine's passes, and what identifies a machine and its weights. Does not know how the model is fitted. Passes
run on KV pages of their own, while the engine may serve other calls; because other load slows passes down, shapes are
measured in turns and only the best time of a turn counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch

from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Branch, Segment, reply
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.graphs import Graphs
from trimode.engine.kv_cache.pages import PagePool, page_bytes, pages_for
from trimode.engine.options import ArOptions, ExactOptions, LinearSpecOptions, LookupSpecOptions, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels.ops import cache_folder, processor

from .. import cache_file as store
from ..audit import Runtime, versions
from ..selection import ADAPTED, BASE_CONTEXT, CostModel, Measurement, fit

ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows of the measured passes."""
LONG_ROWS: Final = (1, 16)
"""Numbers of rows of the passes that are measured at LONG_CONTEXT."""
CALLS: Final = 8
"""Number of calls, of one row each, in the pass of several calls, and number of calls in the loop of several."""
LOOP: Final = 24
"""Number of output tokens of the calls whose whole decoding loops are measured."""
DRAFTED: Final[Sequence[ExactOptions]] = (
    LinearSpecOptions(block_length=4),
    QuadraticSpecOptions(block_length=4, rows=1),
    LinearSpecOptions(block_length=16),
    QuadraticSpecOptions(block_length=6, rows=2),
    LookupSpecOptions(block_length=8),
)
"""Options of the calls with drafts whose loops are measured, if loops without drafts are quick enough (QUICK)."""
_CACHE_VERSION: Final = "5"
"""Version of the cached content; it is part of the file's name."""
LONG_CONTEXT: Final = 768
"""Number of context tokens of the long passes."""
BUDGET: Final = 1.0
"""Seconds of measuring; it takes longer if running each shape once unmeasured and once measured does."""
QUICK: Final = 0.2
"""Fraction of the budget; loops with drafts are measured only if the loops without drafts take less than it."""
TURN: Final = 0.005
"""Seconds that a shape runs before the next one, so that short passes, which are noisier, run more often."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """A pass to measure: total rows, context tokens of each call, draft adapter or not, and number of calls."""

    rows: int
    context: int
    adapter: bool
    calls: int = 1


def calibrated(tokens: TokenEngine, runtime: Runtime) -> CostModel:
    """Returns the cost model for this checkpoint and machine: from the user's cache, or measured now and cached."""
    found = known_cost(tokens, runtime)
    if found is None:
        drafting = tokens.model.config.drafting
        found = replace(fit(measure(tokens)), exact_first=drafting.exact_first, longest=drafting.longest)
        store.write(cost_path(tokens, runtime), "cost", found.as_dict())
    return found


def known_cost(tokens: TokenEngine, runtime: Runtime) -> CostModel | None:
    """Returns the cost model that an earlier process cached, or None. Does not measure."""
    return store.read(cost_path(tokens, runtime), "cost", CostModel.of)


def cost_path(tokens: TokenEngine, runtime: Runtime) -> Path:
    return path_of("cost", runtime, tokens.graphs.name if tokens.graphs is not None else "")


def path_of(kind: str, runtime: Runtime, graphs: str = "") -> Path:
    """Returns the cache file for what was measured or learned with the same weights, machine, threads and code.

    `graphs`: name of the kind of graphs that passes run as; empty without graphs.
    """
    device = torch.device(runtime.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    code = [f"{name} {version}" for name, version in versions().items()]
    parts = [
        runtime.model_sha256,
        runtime.device,
        machine,
        str(torch.get_num_threads()),
        runtime.dtype,
        runtime.kernels,
        runtime.quantize,
    ]
    parts += [*filter(None, (graphs, runtime.adapter_sha256)), *code, _CACHE_VERSION]
    return cache_folder() / f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.json"


def pools_path(pools: str) -> Path:
    """Returns the cache file for what was learned of pools of servers. `pools`: their description."""
    return cache_folder() / f"pools-{hashlib.sha256(pools.encode()).hexdigest()[:16]}.json"


def measure(tokens: TokenEngine, budget: float = BUDGET, clock: Clock = time.perf_counter) -> list[Measurement]:
    """Measures passes of every shape in turn for `budget` seconds, each at least once after one unmeasured run.

    Also measures whole loops of one call and of several, through the engine's queue. Raises QueueFull if it is full.
    """
    wanted = list(shapes(tokens))
    scratch = _scratch(tokens, max(_pages(shape) for shape in wanted))
    passes = [(shape, _pass(tokens, shape, scratch)) for shape in wanted]
    for _, run in passes:
        run()
    begin = clock()
    list(_loops(tokens, ()))
    # Drafted calls are skipped where passes are long, because the time between passes hardly matters there.
    drafted = DRAFTED if clock() - begin < QUICK * budget else ()
    list(_loops(tokens, drafted))
    measured: list[Measurement] = []
    end = clock() + budget
    while not measured or clock() < end:
        for shape, run in passes:
            took = _fastest(run, clock)
            measured.append(Measurement(**asdict(shape), seconds=took))
        measured += _loops(tokens, drafted)
    return measured


def _loops(tokens: TokenEngine, drafted: Sequence[ExactOptions]) -> Iterator[Measurement]:
    """Measures the loops of one and of CALLS calls in `ar`, and of one call for each supported mode in `drafted`."""
    config = tokens.model.config
    if "ar" not in config.modes or config.max_position_embeddings < BASE_CONTEXT + LOOP:
        return
    for calls in (1, CALLS):
        yield from _loop(tokens, ArOptions(), calls)
    for options in drafted:
        if options.mode in config.modes:
            yield from _loop(tokens, options, 1)


def _loop(tokens: TokenEngine, options: ExactOptions, calls: int) -> Iterator[Measurement]:
    """Decodes calls that begin together; measures the mode run whose passes were shared by the most calls."""
    size = tokens.model.config.vocab_size
    prompts = (tuple((call + at) % size for at in range(BASE_CONTEXT)) for call in range(calls))
    requests = [DecodeRequest(prompt=prompt, max_tokens=LOOP, options=options) for prompt in prompts]
    runs = [one for result in tokens.decode_many(requests) for one in result.stats.mode_runs if one.passes]
    if runs:  # empty if every text ends with its first token
        one = max(runs, key=lambda one: one.pass_calls / one.passes)
        yield Measurement(
            rows=one.pass_rows / one.passes,
            context=BASE_CONTEXT + LOOP // 2,
            adapter=ADAPTED.get(options.mode, 0.0),
            seconds=one.seconds / one.passes,
            calls=round(one.pass_calls / one.passes),
            loop=True,
        )


def _fastest(run: Callable[[], object], clock: Clock) -> float:
    """Runs the pass for TURN seconds; returns the shortest time of one run in seconds."""
    begin = last = clock()
    best = float("inf")
    while last - begin < TURN:
        run()
        now = clock()
        best, last = min(best, max(now - last, 1e-9)), now
    return best


def shapes(tokens: TokenEngine) -> Iterator[Shape]:
    """Yields the shapes to measure that fit the model's context."""
    limit = tokens.model.config.max_position_embeddings
    long_context = min(LONG_CONTEXT, limit - max(LONG_ROWS))
    for rows in ROWS:
        for adapter in (False, True) if tokens.model.adapter is not None else (False,):
            if BASE_CONTEXT + rows <= limit:
                yield Shape(rows, BASE_CONTEXT, adapter)
    yield from (Shape(rows, long_context, False) for rows in LONG_ROWS if long_context > BASE_CONTEXT)
    if limit >= BASE_CONTEXT + 1:
        yield Shape(CALLS, BASE_CONTEXT, False, CALLS)


@dataclass(frozen=True, slots=True)
class _Scratch:
    """KV pages for the measured passes. `graphs`: captured over these pages, if the engine uses graphs."""

    pool: PagePool
    pages: list[int]
    graphs: Graphs | None


def _pages(shape: Shape) -> int:
    """Returns the number of KV pages that a pass of this shape needs."""
    return shape.calls * pages_for(shape.context + shape.rows // shape.calls)


def _scratch(tokens: TokenEngine, count: int) -> _Scratch:
    config = tokens.model.config
    pool = PagePool(config, count * page_bytes(config, tokens.dtype), tokens.dtype, tokens.device)
    return _Scratch(pool, pool.take(count), None if tokens.graphs is None else tokens.graphs.over(pool))


def _pass(tokens: TokenEngine, shape: Shape, scratch: _Scratch) -> Callable[[], object]:
    """Returns a function that runs a pass of this shape as the scheduler does, including sampling in each row."""
    config, runner = tokens.model.config, tokens.runner
    own = shape.rows // shape.calls
    each = pages_for(shape.context + own)
    pages = [scratch.pages[call * each : (call + 1) * each] for call in range(shape.calls)]
    ids = tuple(row % config.vocab_size for row in range(own))
    sampler = Sampler(Sampling(), config.vocab_size, tokens.banned, runner.kernels)
    if shape.adapter:
        segment = Segment(start=shape.context, branches=(Branch(tokens=ids, read=own, adapter=True),))
    else:
        segment = Segment(start=shape.context, trunk=ids, read=own)
    segments = [segment] * shape.calls

    @torch.inference_mode()
    def run() -> None:
        found = Batch(segments, pages).forward(runner, scratch.pool, [sampler] * shape.calls, scratch.graphs)
        for rows, sampled in found:
            answer = reply(segment, rows, sampled, sampler)
            (answer.branches[0] if shape.adapter else answer.trunk).sample()  # waits for the device

    return run
