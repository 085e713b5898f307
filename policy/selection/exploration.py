"""Exploration: which variants a policy that learns may try, and what that may cost.

Knows expected prices, prices by one sample of the posterior, prices if every draft were accepted, and the cost of
exploring so far. Does not know where the estimates come from.

Three rules, in this order. A variant that is no cheaper than the best one even with every draft accepted is never
tried, because no observation could make it the choice. Among the others, one Thompson sample proposes a variant; its
saving over the next HORIZON calls has to exceed the loss that one call is expected to make. All losses together stay a
small part of all decoding time, and of each step's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from .evidence import Evidence
from .policies import Forecast
from .posterior import DRAFTING, HORIZON, Estimate, Learned, is_observed, spread
from .pricing import Cost, Costing, Passes, Workload
from .switching import PATIENCE, TOLERANCE, Breakeven
from .variants import AR, Variant

SHARE: Final = 0.005
"""Part of the expected decoding time that exploring may cost: of all steps, and of each one."""
GRACE: Final = 4.0
"""Outputs of average length that exploring may cost in addition, because a new policy could not try anything else."""

Prices = Mapping[Variant, Cost]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The variants among which one call chooses.

    `common`: log slowdown of all recent passes against the cost model; `paces`: what each mode adds to it.
    """

    load: Workload
    passes: Passes
    offered: Sequence[Variant]
    common: float
    paces: Mapping[str, Estimate]

    def expected(self) -> dict[Variant, Cost]:
        return self._prices(self.load, {mode: pace.mean for mode, pace in self.paces.items()}, self.offered)

    def at_best(self) -> dict[Variant, Cost]:
        """Returns the prices with every draft accepted, and each mode a standard error faster than estimated, at least
        as fast as the average mode. A mode that never ran counts as fast as the cost model has it, because the slowdown
        may belong to the others."""
        unknown = min(-self.common, 0.0)
        quick = {
            mode: min(pace.mean - spread(pace), 0.0) if is_observed(pace) else unknown
            for mode, pace in self.paces.items()
        }
        return self._prices(self.load.at_best(), quick, self.offered)

    def sampled(self, rng: Random, chances: Sequence[Variant]) -> dict[Variant, Cost]:
        """Returns the prices of `chances`, with acceptance and slowdown of each mode sampled from the posterior."""
        modes: dict[str, None] = dict.fromkeys(variant.mode for variant in chances)
        z_scores = {mode: rng.gauss(0, 1) for mode in modes}
        paces = {mode: self.paces[mode].mean - by * spread(self.paces[mode]) for mode, by in z_scores.items()}
        return self._prices(self.load.sampled(z_scores), paces, chances)

    def _prices(self, load: Workload, paces: Mapping[str, float], chances: Sequence[Variant]) -> dict[Variant, Cost]:
        slow = {mode: math.exp(self.common + pace) for mode, pace in paces.items()}
        costing = Costing(self.passes, load, slow)
        return {variant: costing.cost(variant) for variant in chances}


@dataclass(frozen=True, slots=True)
class Decision:
    """A variant for one call, and the reason for it."""

    variant: Variant
    reason: str
    controller: Breakeven | None
    forecast: Forecast
    notes: Sequence[str]


@dataclass(slots=True)
class Comparison:
    """The compared variants for calls of one step with equal options. `chances`: the best variant, then those that may
    turn out better.

    `least`: the smallest expected loss of trying one of these. `decision`: the best variant, for calls that do not
    explore.
    """

    candidates: Candidates
    prices: Prices
    best: Variant
    chances: Sequence[Variant]
    least: float
    decision: Decision = field(init=False)


@dataclass(slots=True)
class CachedComparison:
    """A step's comparisons by request (name, other calls, options), for the next `remaining` calls."""

    remaining: int
    comparisons: dict[tuple[object, ...], Comparison] = field(default_factory=dict)


def promising(ceiling: Prices, prices: Prices, best: Variant) -> list[Variant]:
    """Returns `best`, then the variants that would be cheaper if every draft were accepted."""
    return [best, *(other for other in prices if other != best and ceiling[other].price < prices[best].price)]


def remaining_budget(learned: Learned, own: Evidence, call_price: float) -> float:
    """Returns the seconds that exploring may still cost, of all steps and of the step with evidence `own`, whichever is
    less. `call_price`: expected price of one call, in seconds."""
    average = learned.total / learned.planned if learned.planned else call_price
    of_all = SHARE * learned.total + GRACE * average - learned.spent
    return min(of_all, SHARE * own.total + GRACE * call_price - own.spent)


def loss_of(proposed: Variant, prices: Prices, best: Variant) -> float:
    """Returns the price that a call in `proposed` is expected to lose against `best`. A mode that drafts loses no more
    than it takes until the call switches to `ar` (see `Breakeven`)."""
    loss, ar = prices[proposed].price - prices[best].price, prices.get(AR)
    if ar is None or proposed.mode not in DRAFTING:
        return loss
    round_price, decision_price = prices[proposed].a_round[1], ar.a_round[1]
    until_switch = max(TOLERANCE * decision_price, PATIENCE * round_price) + round_price
    return min(loss, until_switch + ar.price - prices[best].price)


def proposed(
    candidates: Candidates, prices: Prices, chances: Sequence[Variant], remaining: float, rng: Random
) -> Variant:
    """Returns the variant for one call: `chances[0]`, the best by estimate, or one to explore whose expected loss is at
    most `remaining` seconds.

    `ar` is explored first, if it never ran, because the gain of every other mode is measured against it.
    """
    best = chances[0]
    if AR in chances and not is_observed(candidates.paces[AR.mode]):
        return AR if loss_of(AR, prices, best) <= remaining else best
    return explored(candidates.sampled(rng, chances), prices, best, remaining)


def explored(sampled: Prices, prices: Prices, best: Variant, remaining: float) -> Variant:
    """Returns the variant with the least sampled price among those whose expected loss is at most `remaining`, if its
    saving over HORIZON calls exceeds that loss; else `best`."""
    losses = {variant: loss_of(variant, prices, best) for variant in sampled}
    affordable = [variant for variant in sampled if losses[variant] <= remaining]
    chosen = min(affordable, key=lambda variant: sampled[variant].price, default=best)
    saved = sampled[best].price - sampled[chosen].price
    return chosen if losses[chosen] <= saved * HORIZON else best
