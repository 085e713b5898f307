"""Seconds that the calls of one loop take together, derived from the means of its groups.

Knows measures and how many calls of each group a loop has. Does not know engines. Calls are counted one after the
other, and the time of tools and people between them is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot

from ..groups import Group
from .intervals import Interval
from .measures import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTime:
    """Mean seconds of a loop's calls under one run. `left_out`: groups without times, whose calls are not counted."""

    run: str
    seconds: Interval
    left_out: tuple[str, ...] = ()


def loop_time(
    run: str, groups: Sequence[Group], loops: int, measured: Callable[[str], Measure | None]
) -> LoopTime | None:
    """Returns the loop time of a run; None where nothing has times. `loops`: of the whole log; `measured`: the measure
    of a group, None where there is none."""
    weights = {group.name: len(group.calls) / loops for group in groups}
    found = {name: one.last for name in weights if (one := measured(name)) is not None and one.last is not None}
    if not found:
        return None
    total = sum(weights[name] * one.value for name, one in found.items())
    below = hypot(*(weights[name] * (one.value - one.low) for name, one in found.items()))
    above = hypot(*(weights[name] * (one.high - one.value) for name, one in found.items()))
    calls = sum(one.n for one in found.values())
    missing = tuple(name for name in weights if name not in found)
    return LoopTime(run=run, seconds=Interval(total, max(0.0, total - below), total + above, calls), left_out=missing)


def by_run(measures: Sequence[Measure], run: str) -> Mapping[str, Measure]:
    """Returns the measures of one run by group."""
    return {one.group: one for one in measures if one.run == run}
