"""The cost model of this machine: a second of real passes on the weights as they are, kept for the next process.

Knows the engine's passes and what makes two machines the same. Passes run on pages of their own, beside whatever the
engine serves; a busy machine measures slow passes, which is why each shape takes turns and only its best time counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Branch, Segment, reply
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.graphs import Graphs
from trimode.engine.kv_cache.pages import PagePool, page_bytes, pages_for
from trimode.engine.request import (
    ArOptions,
    DecodeRequest,
    ExactOptions,
    LinearSpecOptions,
    QuadraticSpecOptions,
    Sampling,
)
from trimode.engine.token_engine import TokenEngine
from trimode.kernels.ops import cache_folder, processor

from .. import cache_file as store
from ..audit import Runtime, versions
from ..selection import ADAPTED, BASE_CONTEXT, CostModel, Measurement, fit

ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
LONG_ROWS: Final = (1, 16)
CALLS: Final = 8
"""Of the pass that is measured once as one call's and once as that of so many."""
LOOP: Final = 24
"""Tokens of the calls whose whole loops are measured."""
DRAFTED: Final[Sequence[ExactOptions]] = (
    LinearSpecOptions(block_length=4),
    QuadraticSpecOptions(block_length=4, rows=1),
    LinearSpecOptions(block_length=16),
    QuadraticSpecOptions(block_length=6, rows=2),
)
"""Calls with drafts whose loops are measured, where they take no longer than the engine's own work is worth knowing."""
FORM: Final = "4"
"""Of what is kept; another one lies in another file."""
LONG_CONTEXT: Final = 768
BUDGET: Final = 1.0
"""Seconds that measuring takes, if it takes no longer to run each shape once unmeasured and once measured."""
QUICK: Final = 0.2
"""Of that, what the loops without drafts may take for those with drafts to be measured, too."""
TURN: Final = 0.005
"""Seconds that a shape runs before the next one does, so that short passes, which noise spoils, run more often."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """A pass to measure."""

    rows: int
    context: int
    adapter: bool
    calls: int = 1


def calibrated(tokens: TokenEngine, runtime: Runtime) -> CostModel:
    """The model for this checkpoint on this machine: from the user's cache, or measured now and kept there."""
    found = known_cost(tokens, runtime)
    if found is None:
        found = fit(measure(tokens))
        store.write(cost_path(tokens, runtime), "cost", found.as_dict())
    return found


def known_cost(tokens: TokenEngine, runtime: Runtime) -> CostModel | None:
    """The model that an earlier process kept; None where there is none. Nothing is measured."""
    return store.read(cost_path(tokens, runtime), "cost", CostModel.of)


def cost_path(tokens: TokenEngine, runtime: Runtime) -> Path:
    return path_of("cost", runtime, tokens.graphs.name if tokens.graphs is not None else "")


def path_of(kind: str, runtime: Runtime, graphs: str = "") -> Path:
    """The cache file of what was measured or learned under the same weights, machine, threads and code.

    `graphs`: what passes run as, where that is not just passes.
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
    parts += [*([graphs] if graphs else []), *code, FORM]
    return cache_folder() / f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.json"


def measure(tokens: TokenEngine, budget: float = BUDGET, clock: Clock = time.perf_counter) -> list[Measurement]:
    """Passes of every shape in turn until `budget` seconds are over, at least one each after a first unmeasured one.

    And whole loops of one call and of several, through the engine's own queue. Raises QueueFull where that is full.
    """
    asked = list(shapes(tokens))
    place = _place(tokens, max(_pages(shape) for shape in asked))
    passes = [(shape, _pass(tokens, shape, place)) for shape in asked]
    for _, run in passes:
        run()
    begin = clock()
    list(_loops(tokens, ()))
    # Where passes are long, what the engine does between them hardly counts, and drafted calls would take seconds.
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
    """Calls that decode in `ar`, one and several, and one for each of `drafted` whose mode the weights have."""
    config = tokens.model.config
    if "ar" not in config.family.modes or config.max_position_embeddings < BASE_CONTEXT + LOOP:
        return
    for calls in (1, CALLS):
        yield from _loop(tokens, ArOptions(), calls)
    for options in drafted:
        if options.mode in config.family.modes:
            yield from _loop(tokens, options, 1)


def _loop(tokens: TokenEngine, options: ExactOptions, calls: int) -> Iterator[Measurement]:
    """Of calls that begin together, the one that had the most company."""
    size = tokens.model.config.vocab_size
    prompts = (tuple((call + at) % size for at in range(BASE_CONTEXT)) for call in range(calls))
    requests = [DecodeRequest(prompt=prompt, max_tokens=LOOP, options=options) for prompt in prompts]
    stretches = [one for result in tokens.decode_many(requests) for one in result.stats.mode_runs if one.passes]
    if stretches:  # a text may be over with its first token
        one = max(stretches, key=lambda one: one.pass_calls / one.passes)
        yield Measurement(
            rows=one.pass_rows / one.passes,
            context=BASE_CONTEXT + LOOP // 2,
            adapter=ADAPTED.get(options.mode, 0.0),
            seconds=one.seconds / one.passes,
            calls=round(one.pass_calls / one.passes),
            loop=True,
        )


def _fastest(run: Callable[[], object], clock: Clock) -> float:
    """The best time of a turn."""
    begin = last = clock()
    best = float("inf")
    while last - begin < TURN:
        run()
        now = clock()
        best, last = min(best, max(now - last, 1e-9)), now
    return best


def shapes(tokens: TokenEngine) -> Iterator[Shape]:
    limit = tokens.model.config.max_position_embeddings
    far = min(LONG_CONTEXT, limit - max(LONG_ROWS))
    for rows in ROWS:
        for adapter in (False, True) if tokens.model.adapter is not None else (False,):
            if BASE_CONTEXT + rows <= limit:
                yield Shape(rows, BASE_CONTEXT, adapter)
    yield from (Shape(rows, far, False) for rows in LONG_ROWS if far > BASE_CONTEXT)
    if limit >= BASE_CONTEXT + 1:
        yield Shape(CALLS, BASE_CONTEXT, False, CALLS)


@dataclass(frozen=True, slots=True)
class Place:
    """Pages for passes to be measured, and their own graphs if the engine has some: graphs belong to their pages."""

    pool: PagePool
    pages: list[int]
    graphs: Graphs | None


def _pages(shape: Shape) -> int:
    return shape.calls * pages_for(shape.context + shape.rows // shape.calls)


def _place(tokens: TokenEngine, count: int) -> Place:
    config = tokens.model.config
    pool = PagePool(config, count * page_bytes(config, tokens.dtype), tokens.dtype, tokens.device)
    return Place(pool, pool.take(count), None if tokens.graphs is None else tokens.graphs.over(pool))


def _pass(tokens: TokenEngine, shape: Shape, place: Place) -> Callable[[], object]:
    """A pass of this shape as the scheduler runs it, up to the choice of a token in each row."""
    config, runner = tokens.model.config, tokens.runner
    own = shape.rows // shape.calls
    each = pages_for(shape.context + own)
    pages = [place.pages[call * each : (call + 1) * each] for call in range(shape.calls)]
    ids = tuple(row % config.vocab_size for row in range(own))
    sampler = Sampler(Sampling(), config.vocab_size, tokens.banned, runner.kernels)
    if shape.adapter:
        segment = Segment(start=shape.context, branches=(Branch(tokens=ids, read=own, adapter=True),))
    else:
        segment = Segment(start=shape.context, trunk=ids, read=own)
    segments = [segment] * shape.calls

    @torch.inference_mode()
    def run() -> None:
        found = Batch(segments, pages).forward(runner, place.pool, [sampler] * shape.calls, place.graphs)
        for rows, sampled in found:
            answer = reply(segment, rows, sampled, sampler)
            (answer.branches[0] if shape.adapter else answer.trunk).sample()  # waits for the device

    return run
