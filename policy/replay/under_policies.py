"""Recorded calls decoded again under other policies: what would have come of them, measured here and not derived.

Knows records, policies and engines. Does not know files or tables. Sampling, prompt, schema and budget are the recorded
ones; a policy gives the mode and its knobs. Tokens of exact modes have to be those of the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trimode.engine.result import EXACT, Stats

from ..audit import CallRecord
from ..selection import OPTIONS, Policy, Settings, StepContext, StepKind, Variant, known_kind, options_of, resolve
from .decode_again import Engines, nothing_to_replay, request_of, was_cut
from .what_if import Row, counted_row, recorded_row

AGAIN = "again"
"""Stands for the recorded mode, decoded now: what policies are to be held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One recorded call under one policy. `same`: its tokens are those recorded; `exact`: they have to be."""

    call: str
    policy: str
    mode: str
    same: bool
    exact: bool
    stats: Stats


def comparable(records: Iterable[CallRecord]) -> dict[tuple[str, StepKind], list[CallRecord]]:
    """Finished calls that a policy can choose for, by step: not choices, gaps, or what a session's budget cut."""
    found: dict[tuple[str, StepKind], list[CallRecord]] = {}
    for record in records:
        kind = known_kind(record.kind)
        decoded = record.suffix_ids is None and record.options.get("mode") in OPTIONS
        if kind is not None and decoded and nothing_to_replay(record) is None and not was_cut(record):
            found.setdefault((record.step, kind), []).append(record)
    return found


def decoded_under(record: CallRecord, kind: StepKind, policy: Policy | None, engines: Engines) -> Decoded:
    """The call in the mode that `policy` gives it, or as it was (None). Raises TrimodeError where none can be had."""
    engine = engines.of(record.runtime)
    request, exact = request_of(record, engine), {made.mode for made in record.rounds} <= EXACT
    words = " ".join(dict.fromkeys(made.mode for made in record.rounds))
    if policy is not None:
        context = StepContext(kind=kind, name=record.step, schema_sha256=record.schema_sha256)
        plan = resolve(context, (policy,), [("recorded", Settings(max_tokens=record.max_tokens))])
        options = engine.tokens.model.config.fitted(options_of(plan.mode, plan.settings))
        request, exact = replace(request, options=options), exact and plan.exact
        words = str(Variant.of(plan.mode, plan.settings))
    result = engine.tokens.decode(request)
    name = AGAIN if policy is None else policy.name
    same = result.token_ids == record.token_ids
    return Decoded(call=record.call, policy=name, mode=words, same=same, exact=exact, stats=result.stats)


def replayed_under(
    records: Iterable[CallRecord], policies: Sequence[Policy], engines: Engines
) -> tuple[list[Row], list[Decoded]]:
    """A row for each step and policy, beside the recorded one and the same mode decoded again; and whatever an exact
    mode wrote otherwise than recorded. Each call is decoded under one policy after the other, so that they meet the
    same machine."""
    rows: list[Row] = []
    wrong: list[Decoded] = []
    for (step, kind), calls in sorted(comparable(records).items()):
        tried = [[decoded_under(call, kind, policy, engines) for policy in (None, *policies)] for call in calls]
        rows += [recorded_row(step, kind, calls), *(_row(step, kind, under) for under in zip(*tried, strict=True))]
        wrong += [one for call in tried for one in call if one.exact and not one.same]
    return rows, wrong


def _row(step: str, kind: StepKind, calls: Sequence[Decoded]) -> Row:
    modes = " ".join(dict.fromkeys(one.mode for one in calls))
    stats = [one.stats for one in calls]
    return counted_row(step, kind, calls[0].policy, modes, stats, same=sum(one.same for one in calls))
