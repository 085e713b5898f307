"""What a finished call says: how its passes ran against the cost model, its drafts against what was thought of them.

Knows results, the cost model and what was learned. Does not know what will be chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .cost_model import CostModel
from .evidence import Observation, Reading, observed
from .policies import DecodePlan
from .posterior import DRAFTING, Learned
from .pricing import ADAPTED, Costing, Pair, Passes, Variant

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult, Stats

MISSED: Final = 0.5
"""Of the logarithm of work against that expected, what one call may say: a bad run is no news of the drafts."""


def learn(cost: CostModel, learned: Learned, plan: DecodePlan, result: DecodeResult) -> None:
    """From a call that ran under `plan`, whoever chose its mode."""
    temperature = plan.settings.temperature or 0.0
    learned.add(plan.context, temperature, _observation(cost, plan, result))
    missed = _missed(cost, learned, plan, result)  # what is left when its acceptance is known
    if missed is not None:
        learned.misjudged(plan.context, temperature, *missed)


def _observation(cost: CostModel, plan: DecodePlan, result: DecodeResult) -> Observation:
    stats = result.stats
    return Observation(
        **observed(result.rounds),
        prompt=stats.prompt_tokens,
        prefilled=stats.prefilled_tokens,
        others=plan.context.others,
        passes=stats.forward_passes,
        rows=stats.query_tokens,
        paces=tuple(_paces(cost, stats)),
    )


def _paces(cost: CostModel, stats: Stats) -> Iterator[Reading]:
    """Of each mode that ran, against the model's word on its passes as they were: with the rows of all in them, so that
    nobody's drafts are blamed on another's mode, and in calls that were switched too."""
    context = stats.prompt_tokens + stats.output_tokens / 2
    for one in stats.mode_runs:
        rows, calls = one.pass_rows / one.passes, one.pass_calls / one.passes
        a_pass = cost.seconds(rows, context, ADAPTED.get(one.mode, 0), calls)
        if one.seconds > 0:
            yield one.mode, math.log(one.seconds / (one.passes * a_pass)), one.passes / stats.forward_passes


def _missed(cost: CostModel, learned: Learned, plan: DecodePlan, result: DecodeResult) -> Pair | None:
    """Log of a call's work in drafting, up to its end or to where it was given up, against what was expected of so many
    decisions, both as if no others had been live. Counts by its part of the call: a call that was given up did badly up
    to there by selection, and would say too much; left out, it would leave a selection of those that did well."""
    variant, stretches = Variant.of(plan.mode, plan.settings), result.stats.mode_runs
    if variant.mode not in DRAFTING or not stretches or stretches[0].mode != variant.mode or not stretches[0].passes:
        return None
    drafted = stretches[0]
    decisions = sum(made.unforced_tokens for made in result.rounds if made.mode == variant.mode)
    if decisions < 2:
        return None
    load = learned.workload(plan.context, plan.settings.temperature or 0.0, plan.settings.max_tokens or 256)
    alone = replace(load, decisions=decisions, calls=1)
    expected = Costing(Passes(cost, alone), alone).cost(variant)
    made, a_round = expected.a_round
    seconds = expected.seconds if len(stretches) == 1 else (decisions - 1) / made * a_round
    work = drafted.passes * cost.seconds(drafted.rows / drafted.passes, load.context, ADAPTED[variant.mode])
    value = min(max(math.log(work / seconds), -MISSED), MISSED)
    return value, drafted.passes / result.stats.forward_passes
