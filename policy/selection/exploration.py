"""What a policy that learns may try out, and what that may cost.

Knows prices as they are expected, as one draw of what is uncertain has them, and as they were if every draft were
accepted; and what trying has cost so far. Does not know where beliefs come from.

Three rules, in this order. What would cost no less than the best way known, even with every draft accepted, is never
tried: no news could make it the choice. Of the rest, one Thompson draw proposes; what it would save over the calls for
which news is believed has to be worth what one call is expected to lose by it. And all losses together stay a small
part of all decoding, and of each step's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from .evidence import Evidence
from .policies import Forecast
from .posterior import DRAFTING, HORIZON, Estimate, Learned, heard_of, spread
from .pricing import AR, Cost, Costing, Passes, Variant, Workload
from .switching import PATIENCE, TOLERANCE, Breakeven

SHARE: Final = 0.005
"""The part of expected decoding time that exploring may cost: of all steps, and of each one."""
GRACE: Final = 4.0
"""Beyond that share, in outputs of average length: without it a new policy could not try anything."""

Prices = Mapping[Variant, Cost]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The ways of decoding that one call is offered.

    `common`: log of how much slower than the model all passes run of late; `paces`: of what each mode adds to that.
    """

    load: Workload
    passes: Passes
    offered: Sequence[Variant]
    common: float
    paces: Mapping[str, Estimate]

    def expected(self) -> dict[Variant, Cost]:
        return self._prices(self.load, {mode: pace.mean for mode, pace in self.paces.items()}, self.offered)

    def at_best(self) -> dict[Variant, Cost]:
        """With every draft accepted, and passes as quick as those of other modes or a standard error quicker than
        thought; of modes that nobody ran, as quick as the model says: it may be the others that are slow."""
        unknown = min(-self.common, 0.0)
        quick = {
            mode: min(pace.mean - spread(pace), 0.0) if heard_of(pace) else unknown for mode, pace in self.paces.items()
        }
        return self._prices(self.load.at_best(), quick, self.offered)

    def drawn(self, dice: Random, chances: Sequence[Variant]) -> dict[Variant, Cost]:
        """Some variants, with acceptance and pace of each mode drawn from what is thought possible."""
        modes: dict[str, None] = dict.fromkeys(variant.mode for variant in chances)
        luck = {mode: dice.gauss(0, 1) for mode in modes}
        paces = {mode: self.paces[mode].mean - by * spread(self.paces[mode]) for mode, by in luck.items()}
        return self._prices(self.load.drawn(luck), paces, chances)

    def _prices(self, load: Workload, paces: Mapping[str, float], chances: Sequence[Variant]) -> dict[Variant, Cost]:
        slow = {mode: math.exp(self.common + pace) for mode, pace in paces.items()}
        costing = Costing(self.passes, load, slow)
        return {variant: costing.cost(variant) for variant in chances}


@dataclass(frozen=True, slots=True)
class Decision:
    """A variant for one call, and why."""

    variant: Variant
    reason: str
    controller: Breakeven | None
    forecast: Forecast
    notes: Sequence[str]


@dataclass(slots=True)
class Comparison:
    """What calls of one step that ask alike are offered; `chances`: the best of it, and what might turn out better.

    `least`: what trying any of these is expected to lose. `decision`: the best of it, for every call that tries none.
    """

    weighing: Candidates
    prices: Prices
    best: Variant
    chances: Sequence[Variant]
    least: float
    decision: Decision = field(init=False)


@dataclass(slots=True)
class CachedComparison:
    """A step's weighings by what was asked, for the next `left` calls."""

    left: int
    weighed: dict[tuple[object, ...], Comparison] = field(default_factory=dict)


def hopeful(ceiling: Prices, prices: Prices, best: Variant) -> list[Variant]:
    """What could turn out to be better than the best one known; that one comes first."""
    return [best, *(other for other in prices if other != best and ceiling[other].price < prices[best].price)]


def room(learned: Learned, own: Evidence, a_call: float) -> float:
    """Seconds that exploring may cost now, by all that it has cost so far. `a_call`: expected price of one."""
    average = learned.total / learned.planned if learned.planned else a_call
    everyone = SHARE * learned.total + GRACE * average - learned.spent
    return min(everyone, SHARE * own.total + GRACE * a_call - own.spent)


def loss_of(proposed: Variant, prices: Prices, best: Variant) -> float:
    """Price that a call in `proposed` is expected to lose; drafts that do not pay are given up in mid-call."""
    loss, ar = prices[proposed].price - prices[best].price, prices.get(AR)
    if ar is None or proposed.mode not in DRAFTING:
        return loss
    a_round, a_decision = prices[proposed].a_round[1], ar.a_round[1]
    return min(loss, max(TOLERANCE * a_decision, PATIENCE * a_round) + a_round + ar.price - prices[best].price)


def proposed(weighing: Candidates, prices: Prices, chances: Sequence[Variant], left: float, dice: Random) -> Variant:
    """What one call is decoded in: `chances[0]`, which is thought best, or a try within what is `left`.

    The first try is that of `ar`, if nobody ran it: what every other mode gains is measured against it.
    """
    best = chances[0]
    if AR in chances and not heard_of(weighing.paces[AR.mode]):
        return AR if loss_of(AR, prices, best) <= left else best
    return tried(weighing.drawn(dice, chances), prices, best, left)


def tried(drawn: Prices, prices: Prices, best: Variant, left: float) -> Variant:
    """The best by one draw of those whose expected loss is within what is `left`, if it is worth that; else `best`."""
    losses = {variant: loss_of(variant, prices, best) for variant in drawn}
    affordable = [variant for variant in drawn if losses[variant] <= left]
    chosen = min(affordable, key=lambda variant: drawn[variant].price, default=best)
    saved = drawn[best].price - drawn[chosen].price
    return chosen if losses[chosen] <= saved * HORIZON else best
