"""What a decision promises, and whether calls that it was not made from keep it.

Knows decisions, measures and intervals. Does not know engines or files. A promise is kept where the held-out calls are
not worse than it by more than the sampling error of both; broken where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .routing import Decision
from .scoring.intervals import Interval, difference, relative
from .scoring.measures import Measure, Objective, compared

Verdict = Literal["kept", "broken", "not checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A group's run with its expected quality. `against`: its objective over that of `baseline`; None: none."""

    group: str
    run: str
    wanted: float
    quality: Interval
    by: Objective
    baseline: str
    against: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One promise beside what held-out calls gave. `quality`, `against`: measured; the two `off`s: measured minus, or
    over, what was promised, with the error of both. `why`: of `not checked`."""

    promise: Promise
    verdict: Verdict
    why: str = ""
    quality: Interval | None = None
    quality_off: Interval | None = None
    against: Interval | None = None
    against_off: Interval | None = None


def promised(decision: Decision, by: Objective, baseline: str) -> Promise | None:
    """Returns what a decision promises; None where the group stays where it is."""
    if decision.stays or decision.chosen is None:
        return None
    return Promise(
        group=decision.group,
        run=decision.run,
        wanted=decision.wanted,
        quality=decision.chosen.quality,
        by=by,
        baseline=baseline,
        against=decision.against,
    )


def checked(promise: Promise, run: Measure | None, base: Measure | None, level: float) -> Checked:
    """Returns the verdict of held-out calls, measured under the promised run and under the baseline."""
    if run is None:
        return Checked(promise=promise, verdict="not checked", why="no held-out call of this group")
    quality_off = difference(run.quality, promise.quality)
    against = None if base is None or promise.against is None else compared(run, base, promise.by, level)
    against_off = None if against is None or promise.against is None else relative(against, promise.against)
    worse = quality_off.high < 0 or (against_off is not None and against_off.low > 1)
    return Checked(
        promise=promise,
        verdict="broken" if worse else "kept",
        why=_why(quality_off, against_off),
        quality=run.quality,
        quality_off=quality_off,
        against=against,
        against_off=against_off,
    )


def _why(quality_off: Interval, against_off: Interval | None) -> str:
    lower = "the quality is lower than the error allows" if quality_off.high < 0 else ""
    dearer = "it costs more than the error allows" if against_off is not None and against_off.low > 1 else ""
    return "; ".join(filter(None, (lower, dearer)))
