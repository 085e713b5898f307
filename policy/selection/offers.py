"""The mode that the package's table offers where nobody names one: its own, or `ar` where that one cannot run or pay.

Knows modes, what weights can decode and the cost of passes. Does not know policies. What somebody named is not
replaced here: weights that lack it refuse the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from trimode.engine.result import Mode

from .cost_model import CostModel
from .pricing import Costing, Passes, Workload
from .settings import MODES, Settings
from .variants import ADAPTED, AR, Variant

LIKELY: Final = 0.9
"""Probability of each draft token to be accepted with which speculation has to pay to be offered: more than recorded
steps of the reference checkpoint reach."""
OUTPUT: Final = 256.0
"""Decisions of the output that is priced, long enough for its last, partly used round not to matter."""
FORCED: Final = 0.5
"""Forced tokens for each decision of that output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`name`: the architecture; `modes`: those that it can decode; `cost`: of a pass on this machine, None where that
    was never measured."""

    name: str
    modes: tuple[Mode, ...]
    cost: CostModel | None = None

    def have(self, mode: Mode) -> bool:
        return mode in self.modes


ANY_WEIGHTS: Final = Weights(name="", modes=MODES)
"""Stands for weights that are not known yet: every mode, at unknown cost."""


def offered(first: Mode, settings: Settings, weights: Weights) -> tuple[Mode, str]:
    """Returns the mode to offer, and why it is not `first`, the table's own; the reason is empty where it is.

    `diffusion`, which is approximate, is offered only under `exact=False`. Weights without any mode to offer get
    `first`, which they refuse.
    """
    candidates: list[Mode] = [first, "ar"]
    if settings.exact is False:
        candidates.append("diffusion")
    possible: list[Mode] = [*filter(weights.have, candidates), first]
    mode: Mode = possible[0]
    if mode != first:
        return mode, f"{weights.name} weights have no {first}"
    if mode in ADAPTED and weights.have("ar") and weights.cost is not None:
        variant = Variant.of(mode, settings)
        if not pays(weights.cost, variant):
            return "ar", f"{variant} cannot pay on this machine, not even with {LIKELY:.0%} of its drafts accepted"
    return mode, ""


@lru_cache(maxsize=64)
def pays(cost: CostModel, variant: Variant) -> bool:
    """Returns whether a round of `variant` costs less than the same decisions in `ar`, under LIKELY acceptance."""
    load = Workload(decisions=OUTPUT, forced=FORCED, acceptance={variant.mode: (LIKELY,) * 256})
    costing = Costing(Passes(cost, load), load)
    (decisions, price), (_, ar_price) = costing.cost(variant).a_round, costing.cost(AR).a_round
    return price < decisions * ar_price
