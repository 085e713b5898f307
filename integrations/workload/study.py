"""The whole: from a log and targets to measures, decisions and checked promises.

Knows every part of this room but files, tables and pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .answering.runner import Runner, recorded_reading
from .answering.targets import RECORDED, Target
from .calls import LACKS, Log, RecordedCall
from .groups import Group, grouped
from .promises import Checked, Promise, checked, promised
from .quality import Quality
from .readings import Reading, Store
from .routing import Decision, Question, decided
from .sampling import Draw, Sample, drawn
from .scoring.intervals import LEVEL, Interval, simultaneous
from .scoring.loop_time import LoopTime, by_run, loop_time
from .scoring.measures import Measure, Objective, measure
from .scoring.prices import Prices

Advance = Callable[[str, int], Callable[[], object]]
"""Begins a bar with a title and a total; what it returns is called for each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of a study. `by`: what decides, None for cost where all has a price, else seconds. `baseline`: the run
    that gains are counted against; None for what was recorded where the log has its times or prices, else the first
    target. `check`: whether held-out calls are run too."""

    draw: Draw = field(default_factory=Draw)
    quality: Quality = field(default_factory=Quality)
    prices: Prices = field(default_factory=Prices)
    by: Objective | None = None
    baseline: str | None = None
    concurrency: int = 1
    check: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The result. `lacks`: calls by what the log does not say of them; `left_out`: records that are no calls.

    `checks`: of the promises on held-out calls, none where nothing was held out. `earlier`: results that came out of
    the store, of `results`.
    """

    names: tuple[str, ...]
    calls: int
    loops: int
    groups: tuple[Group, ...]
    lacks: Mapping[str, int]
    left_out: Mapping[str, int]
    unusable: Mapping[str, int]
    ignored: Mapping[str, int]
    runs: tuple[str, ...]
    baseline: str
    by: Objective
    plan: Plan
    level: float
    measures: tuple[Measure, ...]
    decisions: tuple[Decision, ...]
    promises: tuple[Promise, ...]
    checks: tuple[Checked, ...]
    loop_times: tuple[LoopTime, ...]
    results: int
    earlier: int

    def of(self, group: str, run: str) -> Measure | None:
        return next((one for one in self.measures if (one.group, one.run) == (group, run)), None)


def studied(log: Log, targets: Sequence[Target], recorded: bool, plan: Plan, store: Store, advance: Advance) -> Study:
    """Runs the sample under all targets, decides, and runs held-out calls. `recorded`: what the log says is a column of
    its own."""
    groups = grouped(log.calls)
    sample = drawn(groups, plan.draw)
    runs = (*([RECORDED] if recorded else []), *(target.name for target in targets))
    level = simultaneous(max(1, len(targets)))
    ran = Runner(targets, store, plan.concurrency)
    order = _order(sample.measured)
    found = ran.run(order, advance("sample", len(order) * len(targets)))
    measures = measured(sample.measured, runs, found.readings, plan.prices, level)
    by = plan.by or _objective(measures)
    baseline = plan.baseline or _baseline(measures, runs, by)
    decisions = tuple(_decision(group, measures, baseline, by, plan.quality, level) for group in groups)
    promises = tuple(one for decision in decisions if (one := promised(decision, by, baseline)) is not None)
    checks = check(sample, promises, targets, plan, store, advance, level) if plan.check else ()
    usable = [call for group in groups for call in group.usable]
    return Study(
        names=log.names,
        calls=len(log.calls),
        loops=len({call.cluster for call in log.calls}),
        groups=tuple(groups),
        lacks=_lacks(log.calls),
        left_out=log.left_out,
        unusable=dict(Counter(call.unusable for call in log.calls if call.unusable)),
        ignored=dict(Counter(name for call in usable for name in call.ignored)),
        runs=runs,
        baseline=baseline,
        by=by,
        plan=plan,
        level=level,
        measures=measures,
        decisions=decisions,
        promises=promises,
        checks=checks,
        loop_times=_loop_times(groups, log.calls, measures, runs, decisions),
        results=len(found.readings),
        earlier=found.earlier,
    )


def measured(
    sample: Mapping[str, Sequence[RecordedCall]],
    runs: Sequence[str],
    readings: Sequence[Reading],
    prices: Prices,
    level: float,
) -> tuple[Measure, ...]:
    """Returns the measures of all groups under all runs, `recorded` from the calls themselves."""
    by_call = {(one.call, one.run): one for one in readings}
    found = list[Measure]()
    for group, calls in sample.items():
        for run in runs:
            each = [recorded_reading(call) if run == RECORDED else by_call[call.id, run] for call in calls]
            if each:
                loops = [call.cluster for call in calls]
                found.append(measure(group, run, each, loops, prices.of(run), level))
    return tuple(found)


def check(
    sample: Sample,
    promises: Sequence[Promise],
    targets: Sequence[Target],
    plan: Plan,
    store: Store,
    advance: Advance,
    level: float = LEVEL,
) -> tuple[Checked, ...]:
    """Runs held-out calls of each promised group under its run and under the baseline, and returns the verdicts."""
    calls = {promise.group: sample.held_out.get(promise.group, ()) for promise in promises}
    total = sum(2 * len(each) for each in calls.values())
    step, found = advance("held-out calls", total), list[Checked]()
    for promise in promises:
        needed = (promise.run, promise.baseline)
        chosen = [target for target in targets if target.name in needed]
        ran = Runner(chosen, store, plan.concurrency).run(calls[promise.group], step)
        each = {promise.group: calls[promise.group]}
        measures = {one.run: one for one in measured(each, [*dict.fromkeys(needed)], ran.readings, plan.prices, level)}
        found.append(checked(promise, measures.get(promise.run), measures.get(promise.baseline), level))
    return tuple(found)


def _order(sample: Mapping[str, Sequence[RecordedCall]]) -> list[RecordedCall]:
    """Returns the calls of all groups by turns, so that drift meets all groups alike."""
    longest = max((len(calls) for calls in sample.values()), default=0)
    return [calls[at] for at in range(longest) for calls in sample.values() if at < len(calls)]


def _objective(measures: Sequence[Measure]) -> Objective:
    priced = [one.cost is not None for one in measures if one.run != RECORDED]
    return "cost" if priced and all(priced) else "seconds"


def _baseline(measures: Sequence[Measure], runs: Sequence[str], by: Objective) -> str:
    known = [one.objective(by) is not None for one in measures if one.run == RECORDED]
    return RECORDED if known and all(known) else next(run for run in runs if run != RECORDED)


def _decision(
    group: Group, measures: Sequence[Measure], baseline: str, by: Objective, quality: Quality, level: float
) -> Decision:
    own = {one.run: one for one in measures if one.group == group.name}
    return decided(
        Question(
            group=group.name,
            kinds=group.kinds,
            measures=own,
            baseline=baseline,
            wanted=quality.of(group.kinds),
            by=by,
            level=level,
        )
    )


def _loop_times(
    groups: Sequence[Group],
    calls: Sequence[RecordedCall],
    measures: Sequence[Measure],
    runs: Sequence[str],
    decisions: Sequence[Decision],
) -> tuple[LoopTime, ...]:
    """Returns the loop time of each run alone, and of the decisions together."""
    loops = len({call.cluster for call in calls}) or 1
    found = [loop_time(run, groups, loops, by_run(measures, run).get) for run in runs]
    chosen = {one.group: one.chosen for one in decisions}
    both = loop_time("as recommended", groups, loops, chosen.get)
    if both is not None and not both.left_out:  # a loop without some of its calls cannot be compared with a whole one
        found.append(both)
    return tuple(one for one in found if one is not None)


def _lacks(calls: Sequence[RecordedCall]) -> dict[str, int]:
    found = Counter(LACKS[lack] for call in calls for lack in call.lacks)
    return dict(found.most_common())


def total(study: Study) -> Interval | None:
    """Returns the expected objective of the recommendation over the baseline, for all calls of the groups that move or
    are routed; None where nothing moves. Groups that stay count as they are."""
    base = over = below = above = 0.0
    for decision in study.decisions:
        one = study.of(decision.group, study.baseline)
        value = None if one is None else one.objective(study.by)
        if value is None:
            continue
        weight = value.value * next(len(group.calls) for group in study.groups if group.name == decision.group)
        against = decision.against or Interval(1.0, 1.0, 1.0, value.n)
        base, over = base + weight, over + weight * against.value
        below += (weight * (against.value - against.low)) ** 2
        above += (weight * (against.high - against.value)) ** 2
    if not base or all(decision.against is None for decision in study.decisions):
        return None
    return Interval(over / base, (over - below**0.5) / base, (over + above**0.5) / base, study.results)
