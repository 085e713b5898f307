"""Passes of decoding by mode, query tokens, batch and context: as the scheduler runs them, layout on the host included.

Knows the engine's segments. A pass is measured up to its tokens, chosen greedily, which is its one wait for the device;
over pages that hold zeros, which cost what others do. With graphs and without: a graph is captured for just this pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Final

import torch

from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.graphs import Buckets, Graphs, capturing
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool, page_bytes, pages_for
from trimode.engine.models.config import ModelConfig
from trimode.engine.request import Sampling

from .shapes import parameters
from .timing import Bench, Card

BLOCK: Final = 32
"""Tokens of a published block."""
QUADRATIC: Final = ((16, 2), (16, 4), (16, 16))
"""Block length and acceptance points of quadratic_spec."""
ACCEPTANCE, TPF = 6.82, 6.0
"""As published: tokens a cycle of linear_spec, tokens a pass of quadratic_spec."""


@dataclass(frozen=True, slots=True)
class Case:
    """`pass_`: ar, draft, verify, denoise or quadratic. `block` and `points` as in the mode's options."""

    pass_: str
    block: int
    batch: int
    context: int
    points: int = 0

    @property
    def segment(self) -> Segment:
        ids = tuple(range(self.block))
        if self.pass_ in ("ar", "verify"):
            return Segment(start=self.context, trunk=ids, read=self.block)
        if self.pass_ in ("draft", "denoise"):
            branch = Branch(tokens=ids, read=self.block - 1, adapter=self.pass_ == "draft")
            return Segment(start=self.context, branches=(branch,))
        places = range(1, self.points + 1)
        branches = (Branch(tokens=ids, read=self.block - 1, after=place, adapter=True) for place in places)
        return Segment(start=self.context, trunk=ids, read=self.block, branches=tuple(branches))

    @property
    def rows(self) -> int:
        """Query tokens of all requests together."""
        return self.batch * self.segment.rows

    @property
    def reads(self) -> int:
        """Query tokens whose logits are wanted: the first of a branch is known, as in the modes."""
        return self.batch * (self.segment.read + sum(branch.read for branch in self.segment.branches))


def cases(contexts: list[int], batches: list[int], block: int = BLOCK, quadratic: Any = QUADRATIC) -> list[Case]:
    one = (("ar", 1, 0), ("denoise", block, 0), ("draft", block, 0), ("verify", block, 0))
    every = (*one, *(("quadratic", length, points) for length, points in quadratic))
    return [
        Case(name, length, batch, context, points)
        for (name, length, points), batch, context in product(every, batches, contexts)
    ]


@dataclass(frozen=True, slots=True)
class Place:
    """Pages of a case, and whose they are; all ways to run it take turns on them."""

    pool: PagePool
    tables: list[list[int]]


def place(runner: Runner, case: Case) -> Place:
    config, dtype, device = runner.config, runner.dtype, runner.device
    each = pages_for(case.context + case.block)
    pool = PagePool(config, each * case.batch * page_bytes(config, dtype), dtype, device)
    return Place(pool, [pool.take(each) for _ in range(case.batch)])


def work(runner: Runner, case: Case, where: Place, graphed: bool) -> Callable[[], object]:
    """One pass of the case."""
    config, device, pool, tables = runner.config, runner.device, where.pool, where.tables
    banned = torch.zeros(config.vocab_size, dtype=torch.bool, device=device)
    samplers = [Sampler(Sampling(), config.vocab_size, banned, runner.kernels)] * case.batch
    sizes = Buckets(rows=(case.rows,), tiles=(len(tables[0]),), batches=(case.batch,))
    capture = capturing(runner.kernels, device, True) if graphed else None
    graphs = None if capture is None else Graphs(runner, pool, sizes, capture)

    def run() -> object:
        batch = Batch([case.segment] * case.batch, tables)
        found = batch.forward(runner, pool, samplers, graphs)
        assert batch.replayed == graphed
        return found

    return run


def moved(runner: Runner, case: Case) -> int:
    """Bytes that the pass cannot do without: weights, keys and values of each request once, logits."""
    config, size = runner.config, runner.dtype.itemsize
    entry = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
    return runner.weight_bytes + case.batch * case.context * entry + case.reads * config.vocab_size * size


def flop(config: ModelConfig, case: Case) -> int:
    """Of the products with weights; attention's own are left out."""
    head = config.vocab_size * config.hidden_size
    return 2 * ((parameters(config) - head) * case.rows + head * case.reads)


def measure(runners: dict[str, Runner], asked: list[Case], bench: Bench, card: Card) -> Iterator[dict[str, Any]]:
    """Two rows for each case and way of keeping weights, without graphs and with; all of these take turns."""
    for case in asked:
        ways = [(name, graphed) for name in runners for graphed in (False, True)]
        where = place(next(iter(runners.values())), case)
        contenders = {f"{name} {graphed}": work(runners[name], case, where, graphed) for name, graphed in ways}
        seconds = bench.medians(contenders)
        for name, graphed in ways:
            runner, took = runners[name], seconds[f"{name} {graphed}"]
            about = {"weights": name, "graphs": graphed, **asdict(case), "query_tokens": case.rows}
            yield {**about, **card.row(took, moved(runner, case), flop(runner.config, case))}


def derived(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tokens/s that measured passes would give at published acceptance, which no random weights have: derived."""
    ways = ("weights", "graphs")
    at = {(*(row[way] for way in ways), Case(*(row[name] for name in Case.__slots__))): row["ms"] / 1e3 for row in rows}
    for (weights, graphed, case), seconds in at.items():
        if case.pass_ == "ar":
            found = ("ar", 1 / seconds, "one token a pass")
        elif case.pass_ == "draft":
            cycle = seconds + at[weights, graphed, replace(case, pass_="verify")]
            found = ("linear_spec", ACCEPTANCE / cycle, f"{ACCEPTANCE} tokens a cycle of draft and verification")
        elif case.pass_ == "quadratic":
            assumes = f"{TPF} tokens a pass, whatever block {case.block} and {case.points} points would accept"
            found = ("quadratic_spec", TPF / seconds, assumes)
        else:
            continue
        mode, rate, assumes = found
        where = {"weights": weights, "graphs": graphed, "batch": case.batch, "context": case.context, "mode": mode}
        yield {"derived": True, **where, "tokens_per_s": case.batch * rate, "assumes": assumes}
