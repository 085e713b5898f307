"""The mode that the package's table offers where nobody names one: its own, or `ar` where that one cannot run or pay.

Knows modes, what weights can decode and the cost of passes. Does not know policies. What somebody named is not
replaced here: weights that lack it refuse the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from trimode.engine.result import EXACT, Mode

from .cost_model import CostModel
from .pricing import Costing, Passes, Workload
from .settings import MODES, Settings
from .variants import ADAPTED, AR, Variant

LIKELY: Final = 0.9
"""Probability of each draft token to be accepted with which speculation has to pay to be offered: more than recorded
steps of the reference checkpoint reach."""
COPIED: Final = (0.5, 0.55, 0.6, 0.75, 0.65, 0.85, *(0.75,) * 250)
"""Probability of each copied draft token to be accepted with which copying has to pay to be offered, a draft that ends
counted as refused. COPIED, MATCH and COPIES are what recorded tool_call and json steps of two models reach
(docs/policy.md)."""
MATCH: Final = 0.6
"""Part of those rounds that found something to copy."""
COPIES: Final = 3.7
"""Tokens of a copied draft of those."""
MARGIN: Final = 0.9
"""Part of the price of `ar` that copying may cost to be offered, because costs and acceptance of other steps differ."""
OUTPUT: Final = 256.0
"""Decisions of the output that is priced, long enough for its last, partly used round not to matter."""
FORCED: Final = 0.5
"""Forced tokens for each decision of that output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`name`: the architecture; `modes`: those that it can decode; `cost`: of a pass on this machine, None where that
    was never measured; `unasked`: modes of a draft adapter that nobody asked for, which the table does not offer;
    `scores`: whether steps of kind choice are scored, by no mode, and not written."""

    name: str
    modes: tuple[Mode, ...]
    cost: CostModel | None = None
    unasked: tuple[Mode, ...] = ()
    scores: bool = True

    def have(self, mode: Mode) -> bool:
        return mode in self.modes and mode not in self.unasked


ANY_WEIGHTS: Final = Weights(name="", modes=MODES)
"""Stands for weights that are not known yet: every mode, at unknown cost."""


def offered(first: Mode, settings: Settings, weights: Weights) -> tuple[Mode, str]:
    """Returns the mode to offer, and why it is not `first`, the table's own; the reason is empty where it is.

    Weights that cannot draft are offered copied drafts where the cost of passes is known and these are expected to pay.
    A server without `ar` is offered an exact mode that it has. `diffusion`, which is approximate, is offered only under
    `exact=False`. Weights without any mode to offer get `first`, which they refuse.
    """
    mode, why = _without_copies(first, settings, weights)
    copies = Variant.of("lookup_spec", settings)
    lacking = first in ADAPTED and not weights.have(first) and weights.have("lookup_spec")
    if mode != "ar" or not lacking or weights.cost is None or not copying_pays(weights.cost, copies):
        return mode, why
    return "lookup_spec", f"{why}, and {copies} is expected to pay on this machine"


def _without_copies(first: Mode, settings: Settings, weights: Weights) -> tuple[Mode, str]:
    candidates: list[Mode] = [first, "ar", *(mode for mode in weights.modes if mode in EXACT)]
    if settings.exact is False:
        candidates.append("diffusion")
    possible: list[Mode] = [*filter(weights.have, candidates), first]
    mode: Mode = possible[0]
    if mode != first and first in weights.unasked:
        return mode, f"{first} by the bundled draft adapter is not offered unasked: name it, or take the policy auto"
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


@lru_cache(maxsize=64)
def copying_pays(cost: CostModel, variant: Variant) -> bool:
    """Returns whether an output by `variant`, copied drafts, is expected to cost at most MARGIN of one in `ar`."""
    load = Workload(decisions=OUTPUT, forced=FORCED, acceptance={variant.mode: COPIED}, match=MATCH, copies=COPIES)
    costing = Costing(Passes(cost, load), load)
    return costing.cost(variant).price <= MARGIN * costing.cost(AR).price
