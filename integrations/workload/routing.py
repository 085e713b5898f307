"""Where each group goes: to the cheapest run that is shown to meet the quality, or it stays where it is.

Knows measures. Does not know engines or files. "Shown" means: the lower end of the interval reaches the quality, and
cheaper means: the whole interval of the ratio is below 1. All intervals of a group hold together, because the best of
several is chosen by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .answering.targets import RECORDED
from .scoring.intervals import Interval, share
from .scoring.measures import Measure, Objective, compared

MORE: Final = 4_000
"""Calls beyond which nobody is told how many more would decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to become of one group. `run`: where its calls go, `recorded` where they stay. `reason`: in words.

    `wanted`: the quality that was asked for. `chosen`: the measure of `run`, None where that was not measured.
    `against`: its objective over that of the baseline; None without a baseline, or where it is the baseline itself.
    """

    group: str
    kinds: tuple[str, ...]
    run: str
    reason: str
    wanted: float
    chosen: Measure | None = None
    against: Interval | None = None

    @property
    def stays(self) -> bool:
        return self.run == RECORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One group to be decided: its measures by run, what it has to reach, and how."""

    group: str
    kinds: tuple[str, ...]
    measures: Mapping[str, Measure]
    baseline: str
    wanted: float
    by: Objective
    level: float


def decided(question: Question) -> Decision:
    """Returns the decision on a group."""
    runs = [one for name, one in question.measures.items() if name != RECORDED]
    priced = [one for one in runs if one.objective(question.by) is not None]
    good = [one for one in priced if one.quality.low >= question.wanted]
    if not good:
        return _stays(question, _why_none(runs, priced, question))
    best = min(good, key=lambda one: _value(one, question.by))
    base = question.measures.get(question.baseline)
    if base is None or base is best:
        return _goes(question, best, None, "meets the quality, and nothing that does is cheaper")
    against = compared(best, base, question.by, question.level)
    if against is None:
        return _without_baseline(question, best)
    if against.high < 1:
        return _goes(question, best, against, f"meets the quality, and takes {_than(against, question)}")
    within = f"{best.run}, the best of those, takes {_than(against, question)}: {_no_gain(against)}"
    if question.baseline == RECORDED:
        return _stays(question, within)
    if base in good:
        return _goes(question, base, None, f"meets the quality; {within}")
    return _goes(
        question,
        best,
        against,
        f"meets the quality, which {base.run} is not shown to; takes {_than(against, question)}",
    )


def _without_baseline(question: Question, best: Measure) -> Decision:
    if question.baseline == RECORDED:
        return _stays(question, f"the log does not say what it has in {question.by}, so nothing is shown to be cheaper")
    return _goes(question, best, None, "meets the quality, and nothing that does is cheaper")


def _value(one: Measure, by: Objective) -> float:
    found = one.objective(by)
    assert found is not None
    return found.value


def _goes(question: Question, one: Measure, against: Interval | None, reason: str) -> Decision:
    return Decision(
        group=question.group,
        kinds=question.kinds,
        run=one.run,
        reason=reason,
        wanted=question.wanted,
        chosen=one,
        against=against,
    )


def _stays(question: Question, reason: str) -> Decision:
    return Decision(
        group=question.group,
        kinds=question.kinds,
        run=RECORDED,
        reason=reason,
        wanted=question.wanted,
        chosen=question.measures.get(RECORDED),
    )


def _why_none(runs: Sequence[Measure], priced: Sequence[Measure], question: Question) -> str:
    if not runs:
        return "none of its calls could be measured"
    best = max(runs, key=lambda one: one.quality.value)
    if best.errors and sum(best.errors.values()) == best.n:
        return f"no run answered it ({', '.join(best.errors)})"
    if not priced:
        return f"no run has a price, and {question.by} decides"
    told = f"best {best.run} with {spelled(best.quality)}"
    if best.quality.high < question.wanted:
        return f"no run reaches {question.wanted:.2f}: {told}"
    more = needed(best.quality.value, question.wanted, question.level)
    if more is None:
        return f"not shown to reach {question.wanted:.2f}: {told}"
    calls = f"about {more} calls of different loops would"
    return f"undecided: {told} does not exclude less than {question.wanted:.2f}; {calls}"


def needed(mean: float, wanted: float, level: float) -> int | None:
    """Returns how many independent calls with this mean would show that it reaches `wanted`; None beyond MORE."""
    if mean <= wanted:
        return None
    low, high = 1, MORE
    while low < high:
        count = (low + high) // 2
        enough = share([mean] * count, [str(at) for at in range(count)], level).low >= wanted
        low, high = (low, count) if enough else (count + 1, high)
    return None if low == MORE else low


def _no_gain(against: Interval) -> str:
    return "no gain" if against.value >= 1 else "not more than the error"


def _than(against: Interval, question: Question) -> str:
    word = ("less" if against.value < 1 else "more") + (" time" if question.by == "seconds" else " money")
    span = f"{100 * (against.low - 1):+.0f} to {100 * (against.high - 1):+.0f} %"
    return f"{abs(100 * (against.value - 1)):.0f} % {word} than {question.baseline} ({span})"


def spelled(one: Interval) -> str:
    """Returns a share with its limits: `0.91 (0.84 to 0.95)`."""
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"
