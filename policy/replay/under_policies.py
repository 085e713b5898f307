"""Recorded calls decoded again under other policies: their cost measured, not derived.

Knows records, policies and engines. Does not know files or tables. Sampling, prompt, schema and budget are the recorded
ones; the policy gives the mode and its options. Exact modes must produce the recorded tokens.
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
"""Name of the row for the recorded mode decoded again, which policies are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One recorded call under one policy. `same`: its tokens are the recorded ones; `exact`: they must be."""

    call: str
    policy: str
    mode: str
    same: bool
    exact: bool
    stats: Stats


def comparable(records: Iterable[CallRecord]) -> dict[tuple[str, StepKind], list[CallRecord]]:
    """Returns finished calls for which a policy can choose a mode, by step: without choices, infills and calls that a
    session's budget cut."""
    found: dict[tuple[str, StepKind], list[CallRecord]] = {}
    for record in records:
        kind = known_kind(record.kind)
        decoded = record.suffix_ids is None and record.options.get("mode") in OPTIONS
        if kind is not None and decoded and nothing_to_replay(record) is None and not was_cut(record):
            found.setdefault((record.step, kind), []).append(record)
    return found


def decoded_under(record: CallRecord, kind: StepKind, policy: Policy | None, engines: Engines) -> Decoded:
    """Decodes the call in the mode that `policy` gives it, or in the recorded one (None). Raises TrimodeError where no
    engine can be loaded."""
    engine = engines.of(record.runtime)
    request, exact = request_of(record, engine), {round_.mode for round_ in record.rounds} <= EXACT
    mode = " ".join(dict.fromkeys(round_.mode for round_ in record.rounds))
    if policy is not None:
        context = StepContext(kind=kind, name=record.step, schema_sha256=record.schema_sha256)
        plan = resolve(context, (policy,), [("recorded", Settings(max_tokens=record.max_tokens))], engine.weights)
        options = engine.tokens.model.config.fitted(options_of(plan.mode, plan.settings))
        request, exact = replace(request, options=options), exact and plan.exact
        mode = str(Variant.of(plan.mode, plan.settings))
    result = engine.tokens.decode(request)
    name = AGAIN if policy is None else policy.name
    same = result.token_ids == record.token_ids
    return Decoded(call=record.call, policy=name, mode=mode, same=same, exact=exact, stats=result.stats)


def replayed_under(
    records: Iterable[CallRecord], policies: Sequence[Policy], engines: Engines
) -> tuple[list[Row], list[Decoded]]:
    """Returns rows for each step (as recorded, the recorded mode decoded again, each policy), and the calls in which an
    exact mode produced other tokens than recorded. Each call is decoded under all policies before the next one, so that
    they run under the same conditions."""
    rows: list[Row] = []
    wrong: list[Decoded] = []
    for (step, kind), calls in sorted(comparable(records).items()):
        results = [[decoded_under(call, kind, policy, engines) for policy in (None, *policies)] for call in calls]
        rows += [recorded_row(step, kind, calls), *(_row(step, kind, under) for under in zip(*results, strict=True))]
        wrong += [one for call in results for one in call if one.exact and not one.same]
    return rows, wrong


def _row(step: str, kind: StepKind, calls: Sequence[Decoded]) -> Row:
    modes = " ".join(dict.fromkeys(one.mode for one in calls))
    stats = [one.stats for one in calls]
    return counted_row(step, kind, calls[0].policy, modes, stats, same=sum(one.same for one in calls))
