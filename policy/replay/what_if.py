"""What recorded calls would have cost under another policy, derived from a cost model and recorded acceptance.

Knows records, policies and predictions. Does not decode. A row is either recorded or derived, never both, and says
which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..audit import CallRecord, Counts
from ..errors import PolicyError
from ..selection import (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The modes of one recorded call and the reasons for them. `switches`: `mode > mode: reason`."""

    number: int
    step: str
    kind: str
    modes: str
    reason: str
    switches: tuple[str, ...]
    notes: tuple[str, ...]


def explained(records: Iterable[CallRecord]) -> list[Explained]:
    """Returns the modes and reasons of each recorded call."""
    found = []
    for number, record in enumerate(records, start=1):
        pairs = zip(record.rounds, record.rounds[1:], strict=False)
        switches = tuple(f"{a.mode} > {b.mode}: {b.switch}" for a, b in pairs if b.switch)
        modes = dict.fromkeys(round_.mode for round_ in record.rounds)
        found.append(
            Explained(
                number=number,
                step=record.step,
                kind=record.kind,
                modes=" > ".join(modes) or str(record.options.get("mode", "")),
                reason=record.policy.reason,
                switches=switches,
                notes=record.notes,
            )
        )
    return found


def learned_from(records: Iterable[CallRecord]) -> Learned:
    """Returns the evidence of all finished calls whose step kind policies know, with equal weights."""
    learned = Learned()
    for record in records:
        kind = known_kind(record.kind)
        if kind is None or record.counts is None:
            continue
        seen = Observation(
            **observed(record.rounds),
            prompt=record.counts.prompt_tokens,
            prefilled=record.counts.prompt_tokens - record.counts.cached_tokens,
        )
        learned.add(_context(record, kind), record.sampling.temperature, seen, UNFADED)
    return learned


def tuned(records: Sequence[CallRecord], cost: CostModel, name: str = "tuned") -> Policy:
    """Returns the best fixed exact table for the recorded steps. Raises PolicyError where no call can be learned
    from."""
    learned = learned_from(records)
    if not learned.calls:
        raise PolicyError("no finished call of a known step kind in these records; record some first")
    return Auto(cost, learned).lock(name)


def compared(records: Sequence[CallRecord], policies: Sequence[Policy], cost: CostModel) -> list[Row]:
    """Returns for each step its recorded row, then the expected row of each policy."""
    learned = learned_from(records)
    steps: dict[tuple[str, StepKind], list[CallRecord]] = {}
    for record in records:
        if (kind := known_kind(record.kind)) is not None and record.counts is not None:
            steps.setdefault((record.step, kind), []).append(record)
    rows: list[Row] = []
    for (step, kind), calls in sorted(steps.items()):
        rows.append(recorded_row(step, kind, calls))
        rows += [_derived(step, kind, calls, policy, learned, cost) for policy in policies]
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


def _derived(
    step: str, kind: StepKind, calls: Sequence[CallRecord], policy: Policy, learned: Learned, cost: CostModel
) -> Row:
    """Returns the expected mean over the recorded calls, each with its own schema and temperature."""
    found: list[tuple[Variant, Cost, float | None]] = []
    for call in calls:
        context = _context(call, kind)
        plan = resolve(context, (policy,), [("recorded", Settings(max_tokens=call.max_tokens))])
        variant = Variant.of(plan.mode, plan.settings)
        load = learned.workload(context, call.sampling.temperature, call.max_tokens)
        costing = Costing(Passes(cost, load), load)
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
        accepted=sum(shares) / len(shares) if shares else None,
        derived=True,
    )


def _context(record: CallRecord, kind: StepKind) -> StepContext:
    return StepContext(kind=kind, name=record.step, schema_sha256=record.schema_sha256)
