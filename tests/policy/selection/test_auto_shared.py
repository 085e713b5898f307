"""Calls that share passes, simulated: what each is charged, and that a policy settles on what is best for all of them.

Every live call brings its rows to one pass, which takes as long as all rows and calls in it; whoever drafts makes the
others wait. The machine's host work for each call of a pass is not in the policy's cost model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from trimode.engine.options import ArOptions, ExactOptions, LinearSpecOptions, LookupSpecOptions, QuadraticSpecOptions
from trimode.engine.result import DecodeResult, Mode, ModeRun, Rejected, Round, Stats
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.policies import DecodePlan, StepContext, resolve
from trimode.policy.selection.pricing import Costing, Passes, Workload
from trimode.policy.selection.settings import PlannedKind, Settings, options_of, variant
from trimode.policy.selection.variants import Variant

CURVE: Final = Curve((1, 2, 4, 8, 16, 32, 64), (0.44e-3, 0.49e-3, 0.57e-3, 0.9e-3, 1.46e-3, 2.62e-3, 5.04e-3))
MODEL: Final = CostModel(CURVE, CURVE, 0.0)
HOST: Final = 0.4e-3
KINDS: Final[dict[PlannedKind, tuple[float, int]]] = {"tool_call": (0.9, 14), "json": (0.9, 20), "plan": (0.2, 40)}
"""The chance of a draft decision to be accepted, and decisions of an output."""
FIXED: Final = ("ar", "linear_spec:4", "linear_spec:8", "quadratic_spec:4:1")


@dataclass
class Sharing:
    """One call on its way: `want` is its next pass's (mode, rows), None where it is done."""

    plan: DecodePlan
    rng: random.Random
    rounds: list[Round] = field(default_factory=list[Round])
    stretches: dict[Mode, list[float]] = field(default_factory=dict[Mode, list[float]])
    seconds: float = 0.0

    def __post_init__(self) -> None:
        options = options_of(self.plan.mode, self.plan.settings)
        assert isinstance(options, ExactOptions)
        self.options: ExactOptions = options
        self.rounds.append(Round(mode=options.mode, tokens=(1,), origins="c"))
        self.passes = self.decode(*KINDS[self.plan.context.kind])
        self.want = next(self.passes, None)

    def decode(self, chance: float, decisions: int) -> Iterator[tuple[Mode, int]]:
        left, ready = decisions - 1, False
        while left > 0:
            before = self.options
            if self.plan.controller is not None:
                found = self.plan.controller(self.rounds, self.options)
                self.options = found.options if found else self.options
            options, ready = self.options, ready and self.options is before
            # In this world there is nothing to copy.
            length = 1 if isinstance(options, ArOptions | LookupSpecOptions) else options.block_length or 0
            limit = length - 1
            limit = min(limit, left - 1) if ready or not isinstance(options, QuadraticSpecOptions) else 0
            took = next((at for at in range(limit) if self.rng.random() > chance), limit)
            widths, ready = [1], True
            if isinstance(options, LinearSpecOptions):
                widths = [length] * 2
            elif isinstance(options, QuadraticSpecOptions):
                widths, ready = [1 + limit + length], took == limit
            for rows in widths:
                yield options.mode, rows
            rejected = (Rejected(token=2, reason="target"),) * (limit - took)
            self.rounds.append(
                Round(
                    mode=options.mode,
                    tokens=(1,) * (took + 1),
                    origins="a" * took + "c",
                    drafted=limit,
                    rejected=rejected,
                    forward_passes=len(widths),
                )
            )
            left -= took + 1

    def feed(self, seconds: float, rows: int, calls: int) -> None:
        assert self.want is not None
        mode, own = self.want
        sums = self.stretches.setdefault(mode, [0] * 5)
        self.stretches[mode] = [a + b for a, b in zip(sums, (1, own, rows, calls, seconds), strict=True)]
        self.seconds += seconds
        self.want = next(self.passes, None)

    def result(self) -> DecodeResult:
        origins = "".join(made.origins for made in self.rounds)
        stretches = tuple(
            ModeRun(mode=mode, passes=int(n), rows=int(own), pass_rows=int(all_), pass_calls=int(calls), seconds=took)
            for mode, (n, own, all_, calls, took) in self.stretches.items()
        )
        stats = Stats(
            prompt_tokens=50,
            cached_tokens=40,
            output_tokens=len(origins),
            prefill_passes=1,
            forward_passes=sum(one.passes for one in stretches),
            drafted=sum(made.drafted for made in self.rounds),
            accepted=origins.count("a"),
            corrected=origins.count("c"),
            forced=0,
            repaired=0,
            seconds=self.seconds + 0.01,
            prefill_seconds=0.01,
            query_tokens=sum(one.rows for one in stretches),
            mode_runs=stretches,
        )
        ids = (1,) * len(origins)
        return DecodeResult(token_ids=ids, text="", finish_reason="stop", rounds=tuple(self.rounds), stats=stats)


def together(plans: list[DecodePlan], seed: float, auto: Auto | None) -> float:
    """Seconds until all calls are done that begin together."""
    rng = random.Random(seed)
    live, total = [Sharing(plan, random.Random(rng.random())) for plan in plans], 0.0
    while live:
        wants = [call.want for call in live if call.want is not None]
        rows = sum(own for _, own in wants)
        seconds = (CURVE.at(rows) + HOST * len(live)) * rng.lognormvariate(0, 0.05)
        total += seconds
        for call in live:
            call.feed(seconds, rows, len(live))
            if call.want is None and auto is not None:
                auto.observe(call.plan, call.result())
        live = [call for call in live if call.want is not None]
    return total


def planned(word: str, auto: Auto, kind: PlannedKind, others: int) -> DecodePlan:
    context = StepContext(kind=kind, name=kind, others=others)
    if word == "auto":
        return resolve(context, (auto,), [("test", Settings(temperature=0.0))])
    return resolve(context, (), [(word, variant(word, word))])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("live", [1, 8])
def test_a_mixed_loop_is_as_quick_as_in_the_best_fixed_mode(live: int, seed: int) -> None:
    auto, rng = Auto(MODEL, seed=seed), random.Random(seed)
    took = dict.fromkeys((*FIXED, "auto"), 0.0)
    for begun in range(0, 104 + live, live):
        kinds = rng.choices(list(KINDS), [2, 1, 1], k=live)
        draw = rng.random()
        for word in took:
            seconds = together(
                [planned(word, auto, kind, live - 1) for kind in kinds], draw, auto if word == "auto" else None
            )
            took[word] += seconds if begun >= 50 else 0.0
    assert min(took[word] for word in FIXED) / took["auto"] >= 0.95


def load(rows_of_others: float, calls: int = 8) -> Workload:
    return Workload(decisions=30, acceptance={"linear_spec": [0.9] * 31}, calls=calls, rows_of_others=rows_of_others)


def test_a_call_alone_pays_for_its_passes() -> None:
    for each in (Variant("ar"), Variant("linear_spec", 8)):
        cost = Costing(Passes(MODEL, load(5.0, calls=1)), load(5.0, calls=1)).cost(each)
        assert cost.price == cost.seconds


def test_shares_of_equal_calls_are_equal_parts() -> None:
    for calls in (2, 8):
        seconds, price = Passes(MODEL, load(2.0, calls))(2.0)
        assert price == pytest.approx(seconds / calls)


@pytest.mark.parametrize("rows_of_others", [1.0, 4.0, 60.0])
def test_more_rows_never_have_a_smaller_price(rows_of_others: float) -> None:
    steep = CostModel(Curve((1, 64, 256), (0.01, 0.0101, 0.9)), Curve((1, 64, 256), (0.01, 0.0101, 0.9)), 0.0)
    for model in (MODEL, steep):
        prices = [Passes(model, load(rows_of_others))(rows)[1] for rows in (1, 2, 4, 8, 16, 32)]
        assert prices == sorted(prices)
        assert prices[0] > 0


def test_the_price_is_what_rows_add_and_not_what_the_call_waits_for() -> None:
    """Beside seven calls of one row, four rows wait for a pass of eleven, and pay for three rows more than they do."""
    seconds, price = Passes(MODEL, load(1.0))(4.0)
    assert seconds == pytest.approx(CURVE.at(11))
    assert price == pytest.approx(CURVE.at(8) / 8 + CURVE.at(11) - CURVE.at(8))
