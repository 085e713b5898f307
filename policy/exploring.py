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
from dataclasses import dataclass
from random import Random
from typing import Final

from .cost import CostModel
from .learned import HORIZON, SPREAD, Evidence, Guess, Learned
from .pricing import Cost, Costing, Variant, Workload

SHARE: Final = 0.01
"""The part of expected decoding time that exploring may cost: of all steps, and of each one."""
GRACE: Final = 2.0
"""Beyond that share, in outputs of average length: without it a new policy could not try anything."""

Prices = Mapping[Variant, Cost]


@dataclass(frozen=True, slots=True)
class Weighing:
    """The ways of decoding that one call is offered. `paces`: log of how much slower than the model each mode runs."""

    model: CostModel
    load: Workload
    offered: Sequence[Variant]
    paces: Mapping[str, Guess]

    def expected(self) -> dict[Variant, Cost]:
        return self._prices(self.load, {})

    def at_best(self) -> dict[Variant, Cost]:
        """With every draft accepted."""
        return self._prices(self.load.at_best(), {})

    def drawn(self, dice: Random) -> dict[Variant, Cost]:
        """With acceptance and pace of each mode drawn from what is thought possible."""
        luck = {mode: dice.gauss(0, 1) for mode in sorted({*self.load.acceptance, *self.paces})}
        return self._prices(self.load.drawn(luck), luck)

    def _prices(self, load: Workload, luck: Mapping[str, float]) -> dict[Variant, Cost]:
        costing = Costing(self.model, load)
        slow = {
            mode: math.exp(pace.mean - luck.get(mode, 0.0) * SPREAD / math.sqrt(pace.trials + 1))
            for mode, pace in self.paces.items()
        }
        return {variant: costing.cost(variant).times(slow[variant.mode]) for variant in self.offered}


def hopeful(ceiling: Prices, prices: Prices, best: Variant) -> list[Variant]:
    """What could turn out to be better than the best one known; that one comes first."""
    return [best, *(other for other in prices if other != best and ceiling[other].price < prices[best].price)]


def room(learned: Learned, own: Evidence, a_call: float) -> float:
    """Seconds that exploring may cost now, by all that it has cost so far. `a_call`: expected price of one."""
    average = learned.total / learned.planned if learned.planned else a_call
    everyone = SHARE * learned.total + GRACE * average - learned.spent
    return min(everyone, SHARE * own.total + GRACE * a_call - own.spent)


def tried(
    drawn: Prices, prices: Prices, best: Variant, chances: Sequence[Variant], left: float, own: Evidence
) -> Variant:
    """The best by one draw, if it is worth its expected loss and that is within what is `left`; else `best`."""
    proposed = min(chances, key=lambda variant: drawn[variant].price)
    loss = prices[proposed].price - prices[best].price
    saved = drawn[best].price - drawn[proposed].price
    return proposed if loss <= min(left, saved * min(own.calls + 1, HORIZON)) else best
