"""What a finished call says: how its passes ran against the cost model, its drafts against what was thought of them.

Knows results, the cost model and what was learned before. Does not know what will be chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .cost import CostModel
from .evidence import Observation, Reading, observed
from .learned import DRAFTING, Learned
from .pricing import ADAPTED, Costing, Passes, Variant
from .resolve import DecodePlan

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult, Stats

MISSED: Final = 0.5
"""Of the logarithm of work against that expected, what one call may say: a bad run is no news of the drafts."""


def observation(cost: CostModel, learned: Learned, plan: DecodePlan, result: DecodeResult) -> Observation:
    """Of a call that ran under `plan`, whoever chose its mode."""
    stats, counts = result.stats, observed(result.rounds)
    return Observation(
        **counts,
        prompt=stats.prompt_tokens,
        prefilled=stats.prefilled_tokens,
        others=plan.context.others,
        passes=stats.forward_passes,
        rows=stats.query_tokens,
        paces=tuple(_paces(cost, stats)),
        missed=_missed(cost, learned, plan, stats, counts["decisions"]),
    )


def _paces(cost: CostModel, stats: Stats) -> Iterator[Reading]:
    """Of each mode that ran, against the model's word on its passes as they were: with the rows of all in them, so that
    nobody's drafts are blamed on another's mode, and in calls that were switched too."""
    context = stats.prompt_tokens + stats.output_tokens / 2
    for one in stats.stretches:
        rows, calls = one.pass_rows / one.passes, one.pass_calls / one.passes
        a_pass = cost.seconds(rows, context, ADAPTED.get(one.mode, 0), calls)
        if one.seconds > 0:
            yield one.mode, math.log(one.seconds / (one.passes * a_pass)), one.passes / stats.forward_passes


def _missed(cost: CostModel, learned: Learned, plan: DecodePlan, stats: Stats, decisions: int) -> float | None:
    """Log of the work of a call that drafted to its end against what was expected of so many decisions, both as if no
    others had been live; None for other calls."""
    variant = Variant.of(plan.mode, plan.settings)
    if variant.mode not in DRAFTING or [one.mode for one in stats.stretches] != [variant.mode] or decisions < 2:
        return None
    (one,) = stats.stretches
    load = learned.workload(plan.context, plan.settings.temperature or 0.0, plan.settings.max_tokens or 256)
    alone = replace(load, decisions=decisions, calls=1)
    expected = Costing(Passes(cost, alone), alone).cost(variant).seconds
    work = one.passes * cost.seconds(one.rows / one.passes, load.context, ADAPTED.get(one.mode, 0))
    return min(max(math.log(work / expected), -MISSED), MISSED)
