"""What a finished call teaches: how slow its passes were against the cost model, and its drafts against the estimate.

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
from .pricing import Costing, Pair, Passes
from .variants import ADAPTED, LENGTHS, Variant

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult, Stats

MISSED: Final = 0.5
"""Limit on log(actual / expected drafting work) that one call contributes, so that one unlucky call does not move a
step's estimate."""


def learn(cost: CostModel, learned: Learned, plan: DecodePlan, result: DecodeResult) -> None:
    """Adds to `learned` what a call under `plan` taught, no matter who chose its mode."""
    temperature = plan.settings.temperature or 0.0
    learned.add(plan.context, temperature, _observation(cost, plan, result))
    draft_error = _draft_error(cost, learned, plan, result)  # the error that remains after the call's acceptance counts
    if draft_error is not None:
        learned.add_draft_error(plan.context, temperature, plan.mode, *draft_error)


def _observation(cost: CostModel, plan: DecodePlan, result: DecodeResult) -> Observation:
    stats = result.stats
    return Observation(
        **observed(result.rounds, plan.settings.block_length or LENGTHS.get(plan.mode, 1)),
        prompt=stats.prompt_tokens,
        prefilled=stats.prefilled_tokens,
        others=plan.context.others,
        passes=stats.forward_passes,
        rows=stats.query_tokens,
        paces=tuple(_paces(cost, stats)),
    )


def _paces(cost: CostModel, stats: Stats) -> Iterator[Reading]:
    """Yields the log slowdown of each mode that ran: its seconds over those of the cost model for the same passes.

    The passes count with the rows of all calls in them, so that other calls' drafts are not blamed on this mode. Calls
    that switched their mode yield one reading for each mode.
    """
    context = stats.prompt_tokens + stats.output_tokens / 2
    for run in stats.mode_runs:
        rows, calls = run.pass_rows / run.passes, run.pass_calls / run.passes
        pass_seconds = cost.seconds(rows, context, ADAPTED.get(run.mode, 0), calls)
        if run.seconds > 0:
            yield run.mode, math.log(run.seconds / (run.passes * pass_seconds)), run.passes / stats.forward_passes


def _draft_error(cost: CostModel, learned: Learned, plan: DecodePlan, result: DecodeResult) -> Pair | None:
    """Returns log(actual / expected work) of a call's drafting, and its weight; None for calls without drafts.

    Drafting ends with the call, or where the call switched to another mode. Expected is the work for as many decisions;
    both are taken as if no other call had run. The weight is the drafted part of the call: a call that switched did
    badly before by selection, so in full it would count too much, and without such calls only the good ones would
    count.
    """
    variant, runs = Variant.of(plan.mode, plan.settings), result.stats.mode_runs
    if variant.mode not in DRAFTING or not runs or runs[0].mode != variant.mode or not runs[0].passes:
        return None
    drafted = runs[0]
    decisions = sum(round_.unforced_tokens for round_ in result.rounds if round_.mode == variant.mode)
    if decisions < 2:
        return None
    load = learned.workload(plan.context, plan.settings.temperature or 0.0, plan.settings.max_tokens or 256)
    alone = replace(load, decisions=decisions, calls=1)
    expected = Costing(Passes(cost, alone), alone).cost(variant)
    per_round, round_price = expected.a_round
    seconds = expected.seconds if len(runs) == 1 else (decisions - 1) / per_round * round_price
    work = drafted.passes * cost.seconds(drafted.rows / drafted.passes, load.context, ADAPTED[variant.mode])
    value = min(max(math.log(work / seconds), -MISSED), MISSED)
    return value, drafted.passes / result.stats.forward_passes
