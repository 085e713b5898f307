"""Intervals as places on an axis, in per cent of its width.

Knows numbers. Does not know pages. What is beyond the axis stands at its end and is marked as cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..scoring.intervals import Interval

FARTHEST: Final = 8.0
"""The largest ratio on an axis; its inverse is the smallest."""
ROUND: Final = (1, 2, 2.5, 5, 10)
"""Steps of an axis, times a power of ten."""
STEPS: Final = 5
"""Ticks of an axis, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One estimate on an axis. `number`: of its run, for colour and shape; `at`, `left`, `width`: per cent; `tip`: in
    words. `cut`: whether a limit is beyond the axis."""

    number: int
    at: float
    left: float
    width: float
    tip: str
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Where values stand. `ticks`: per cent and label."""

    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]

    def mark(self, number: int, one: Interval, tip: str) -> Mark:
        """Returns an estimate as a mark."""
        left, right = self.place(one.low), self.place(one.high)
        cut = _is_beyond(self.place, one.low) or _is_beyond(self.place, one.high)
        return Mark(number=number, at=self.place(one.value), left=left, width=right - left, tip=tip, cut=cut)


def _is_beyond(place: Callable[[float], float], value: float) -> bool:
    return place(value) in (0.0, 100.0) and not math.isclose(value, 0.0) and not math.isclose(value, 1.0)


def shares() -> Axis:
    """Returns the axis from 0 to 1."""
    return Axis(
        place=lambda value: 100 * _within(value, 0, 1), ticks=tuple((25.0 * at, f"{at / 4:g}") for at in range(5))
    )


def ratios(values: Sequence[Interval]) -> Axis:
    """Returns a logarithmic axis around 1, as wide as the estimates need, up to FARTHEST."""
    ends = [abs(math.log2(at)) for one in values for at in (one.low, one.value, one.high) if 0 < at < math.inf]
    reach = min(math.log2(FARTHEST), max(1.0, math.ceil(max(ends, default=1.0))))

    def place(value: float) -> float:
        power = math.log2(value) if value > 0 else -math.inf
        return 50 + 50 * _within(power / reach, -1, 1)

    powers = range(-round(reach), round(reach) + 1)
    ticks = tuple((place(2.0**power), _times(power)) for power in powers)
    return Axis(place=place, ticks=ticks)


def _times(power: int) -> str:
    return "same" if power == 0 else f"{2**power}x" if power > 0 else f"1/{2**-power}"


def amounts(values: Sequence[Interval], unit: str = "") -> Axis:
    """Returns an axis from 0 to the highest limit."""
    highest = max((one.high if one.high < math.inf else one.value for one in values), default=1.0) or 1.0
    step = _step(highest)
    top = step * math.ceil(highest / step)
    count = round(top / step)
    ticks = tuple((100 * at / count, f"{at * step:g}{unit if at == count else ''}") for at in range(count + 1))
    return Axis(place=lambda value: 100 * _within(value / top, 0, 1), ticks=ticks)


def _step(highest: float) -> float:
    power = 10.0 ** math.floor(math.log10(highest / STEPS))
    return next(power * size for size in (*ROUND, 20) if highest / (power * size) <= STEPS)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
