"""What recorded calls would have cost under another policy, derived from a cost model and recorded acceptance.

Knows records, policies and predictions. Does not decode. A row is either recorded or derived, never both, and says
which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from ..audit import CallRecord, Counts, RoundRecord
from ..errors import PolicyError
from ..selection import (
    ADAPTED,
    ANY_WEIGHTS,
    LENGTHS,
    Auto,
    Cost,
    Costing,
    CostModel,
    Learned,
    Observation,
    Passes,
    Policy,
    Settings,
    StepContext,
    StepKind,
    Variant,
    Weights,
    known_kind,
    observed,
    resolve,
)

if TYPE_CHECKING:
    from trimode.engine.result import Stats

UNFADED: Final = (1.0, 1.0, 1.0)
"""Factors that decay nothing, so that all recorded calls count alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step under one policy. Shares are 0..1; `derived`: predicted, not recorded. None where a number does not
    apply.

    `same`: calls whose tokens, decoded again, are the recorded ones.
    """

    step: str
    kind: str
    policy: str
    mode: str
    calls: int
    passes: float
    tokens_per_s: float | None
    accepted: float | None
    derived: bool
    same: int | None = None
    check: Check | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A prediction beside what decoding gave, both of the same `calls`, which the prediction was not made from.

    Shares of accepted drafts are 0..1, None where nothing was drafted. `against_ar`: the decoded speed over that of
    `ar` on the same calls.
    """

    policy: str
    calls: int
    predicted_tokens_per_s: float
    decoded_tokens_per_s: float
    predicted_accepted: float | None
    decoded_accepted: float | None
    against_ar: float

    @property
    def error(self) -> float:
        """Predicted speed over the decoded one, minus 1."""
        return self.predicted_tokens_per_s / self.decoded_tokens_per_s - 1


Checks = Mapping[tuple[str, str, int], Check]
"""By step, its kind, and the policy's number; two policies may have one name."""


def learned_from(records: Iterable[CallRecord], cost: CostModel) -> Learned:
    """Returns the evidence of all finished calls whose step kind policies know, with equal weights.

    Their recorded seconds over those of `cost` for the same passes count too: a schema costs time at each token, of
    which the cost of a pass knows nothing.
    """
    learned = Learned()
    for record in records:
        kind = known_kind(record.kind)
        if kind is None or record.counts is None:
            continue
        seen = Observation(
            **observed(record.rounds, cast(int, record.options.get("block_length")) or 1),
            prompt=record.counts.prompt_tokens,
            prefilled=record.counts.prompt_tokens - record.counts.cached_tokens,
            paces=_paces(record, record.counts, cost),
        )
        learned.add(_context(record, kind), record.sampling.temperature, seen, UNFADED)
    return learned


def _paces(record: CallRecord, counts: Counts, cost: CostModel) -> tuple[tuple[str, float, float], ...]:
    """Returns the log slowdown of a call against `cost`; nothing for calls that switched their mode, whose seconds are
    not recorded apart, and for diffusion, whose passes are of blocks that the record does not size."""
    seconds, modes = counts.seconds - counts.prefill_seconds, {round_.mode for round_ in record.rounds}
    known = str(record.options.get("mode"))
    if seconds <= 0 or not counts.forward_passes or modes != {known} or known not in ("ar", *ADAPTED):
        return ()
    context = counts.prompt_tokens + counts.output_tokens / 2
    front = 1 + counts.forced / max(counts.output_tokens - counts.forced, 1)
    modelled = sum(
        cost.seconds(rows, context, adapter)
        for round_ in record.rounds
        for rows, adapter in _passes(round_, record.options, front)
    )
    return ((known, math.log(seconds / modelled), 1.0),) if modelled else ()


def _passes(round_: RoundRecord, options: Mapping[str, Any], front: float) -> list[tuple[float, float]]:
    """Returns rows of each pass of a recorded round, and whether they used the adapter. `front`: rows before a draft.

    A draft ends with the end token that it holds, so what is verified is often shorter than the block; a cost of whole
    blocks would make long blocks look cheap, and with them, by their mode, short ones.
    """
    length = int(options.get("block_length") or LENGTHS.get(round_.mode, 1))
    if round_.mode == "linear_spec" and round_.drafted:
        refused = sum(reason == "schema" for _, reason in round_.rejected)
        verified = float(min(1 + round_.drafted - refused + round_.origins.count("f"), length))
        if options.get("exact_first"):  # the prompt's pass has drafted for the first round
            return [(front + length, 1.0), (verified, 0.0)][-round_.forward_passes :]
        return [(float(length), 1.0), (verified, 0.0)][: round_.forward_passes]
    if round_.mode == "quadratic_spec" and round_.drafted:
        rows = options.get("rows")
        prepared = length if rows is None else min(int(rows), length)
        return [(front + length - 1 + prepared * length, 1.0)] * round_.forward_passes
    if round_.mode == "lookup_spec" and round_.drafted:
        refused = sum(reason == "schema" for _, reason in round_.rejected)
        return [(1.0 + round_.drafted - refused + round_.origins.count("f"), 0.0)] * round_.forward_passes
    return [(front, 0.0)] * round_.forward_passes


def tuned(
    records: Sequence[CallRecord], cost: CostModel, name: str = "tuned", weights: Weights = ANY_WEIGHTS
) -> Policy:
    """Returns the best fixed exact table for the recorded steps. Raises PolicyError where no call can be learned
    from."""
    learned = learned_from(records, cost)
    if not learned.calls:
        raise PolicyError("no finished call of a known step kind in these records; record some first")
    return Auto(cost, learned, weights.modes).lock(name)


def compared(
    records: Sequence[CallRecord],
    policies: Sequence[Policy],
    cost: CostModel,
    weights: Weights = ANY_WEIGHTS,
    checks: Checks | None = None,
) -> list[Row]:
    """Returns for each step its recorded row, then the expected row of each policy, with its check if there is one."""
    learned = learned_from(records, cost)
    steps: dict[tuple[str, StepKind], list[CallRecord]] = {}
    for record in records:
        if (kind := known_kind(record.kind)) is not None and record.counts is not None:
            steps.setdefault((record.step, kind), []).append(record)
    rows: list[Row] = []
    for (step, kind), calls in sorted(steps.items()):
        rows.append(recorded_row(step, kind, calls))
        refused = refused_share(calls, records)
        for number, policy in enumerate(policies):
            row = derived_row(step, kind, calls, policy, learned, cost, weights, refused)
            rows.append(replace(row, check=(checks or {}).get((step, kind, number))))
    return rows


def recorded_row(step: str, kind: str, calls: Sequence[CallRecord]) -> Row:
    """Returns the row of a step as recorded, no matter which policies chose its modes."""
    counts = [call.counts for call in calls if call.counts is not None]
    modes = dict.fromkeys(round_.mode for call in calls for round_ in call.rounds)
    return counted_row(step, kind, "as recorded", " ".join(modes), counts)


def counted_row(
    step: str, kind: str, policy: str, mode: str, counts: Sequence[Counts | Stats], same: int | None = None
) -> Row:
    """Returns a row from the counts of decoded calls, recorded or decoded again."""
    seconds = sum(each.seconds - each.prefill_seconds for each in counts)
    drafted = sum(each.drafted for each in counts)
    return Row(
        step=step,
        kind=kind,
        policy=policy,
        mode=mode,
        calls=len(counts),
        passes=sum(each.forward_passes for each in counts) / len(counts),
        tokens_per_s=sum(each.output_tokens for each in counts) / seconds if seconds > 0 else None,
        accepted=sum(each.accepted for each in counts) / drafted if drafted else None,
        derived=False,
        same=same,
    )


def derived_row(
    step: str,
    kind: StepKind,
    calls: Sequence[CallRecord],
    policy: Policy,
    learned: Learned,
    cost: CostModel,
    weights: Weights = ANY_WEIGHTS,
    refused: float = 0.0,
) -> Row:
    """Returns the expected mean over the recorded calls, each with its own schema and temperature. `refused`: share of
    drafts that the schema refuses at once."""
    found: list[tuple[Variant, Cost, float | None]] = []
    for call in calls:
        context = _context(call, kind)
        plan = resolve(context, (policy,), [("recorded", Settings(max_tokens=call.max_tokens))], weights)
        variant = Variant.of(plan.mode, plan.settings)
        load = learned.workload(context, call.sampling.temperature, call.max_tokens)
        slow: dict[str, float] = {
            variant.mode: math.exp(learned.slowdown(context, call.sampling.temperature, variant.mode))
        }
        costing = Costing(Passes(cost, load), load, slow)
        found.append((variant, costing.cost(variant), costing.accepted(variant)))
    seconds, shares = sum(each.seconds for _, each, _ in found), [share for *_, share in found if share is not None]
    return Row(
        step=step,
        kind=kind,
        policy=policy.name,
        mode=" ".join(dict.fromkeys(str(variant) for variant, *_ in found)),
        calls=len(found),
        passes=sum(each.passes for _, each, _ in found) / len(found),
        tokens_per_s=sum(each.tokens for _, each, _ in found) / seconds,
        accepted=(1 - refused) * sum(shares) / len(shares) if shares else None,
        derived=True,
    )


def refused_share(calls: Sequence[CallRecord], others: Sequence[CallRecord] = ()) -> float:
    """Returns the share of recorded drafts that the schema refused at once; that of `others` where `calls` drafted
    nothing, and 0 without a schema.

    Such a draft counts as drafted, and so does the token drafted instead, of which alone acceptance by position knows.
    """
    held = [call for call in calls if call.schema_sha256 is not None]
    rounds = [round_ for call in held for round_ in call.rounds if round_.mode in ADAPTED]
    drafted = sum(round_.drafted for round_ in rounds)
    if not drafted:
        return refused_share(others) if held and others else 0.0
    return sum(reason == "schema" for round_ in rounds for _, reason in round_.rejected) / drafted


def _context(record: CallRecord, kind: StepKind) -> StepContext:
    return StepContext(kind=kind, name=record.step, schema_sha256=record.schema_sha256)
