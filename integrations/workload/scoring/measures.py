"""One group under one run: quality, latency, tokens and cost, each with its sampling error.

Knows readings, prices and intervals. Does not know what is decided from them. Errors count as answers of quality 0 and
have no times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

from ..calls import Usage
from ..readings import Reading
from .intervals import Interval, mean, ratio, share
from .prices import Price

Objective = Literal["seconds", "cost"]
"""What a run is chosen by: seconds to the last token, or what a call costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`n`: calls; `errors`: those without an answer, by class. `loops` and `readings` go together.

    `quality`: mean score; `valid`: share of valid outputs; the next four are means over the calls that they apply to.
    `first`, `last`: mean seconds; `p50`, `p95`: of `last`. `per_pass`: output tokens a decoding pass; `tokens`: output
    tokens a call. `cost`: of a call, in the currency of the price table.
    """

    group: str
    run: str
    n: int
    errors: Mapping[str, int]
    quality: Interval
    valid: Interval | None
    names: float | None
    arguments: float | None
    fields: float | None
    prose: float | None
    first: Interval | None
    last: Interval | None
    p50: float | None
    p95: float | None
    per_pass: float | None
    tokens: float | None
    cost: Interval | None
    readings: tuple[Reading, ...] = field(repr=False)
    loops: tuple[str, ...] = field(repr=False)
    price: Price | None = field(repr=False, default=None)

    def objective(self, by: Objective) -> Interval | None:
        return self.last if by == "seconds" else self.cost

    def values(self, by: Objective) -> list[float | None]:
        """The objective of each reading, None where it is not known."""
        return [one.last if by == "seconds" else cost_of(one, self.price) for one in self.readings]


def measure(
    group: str, run: str, readings: Sequence[Reading], loops: Sequence[str], price: Price | None, level: float
) -> Measure:
    """Returns the measure of at least one reading. `loops`: the loop of each; `level`: that of all intervals."""
    answered = [one for one in readings if not one.error]
    constrained = any(one.valid is not None for one in readings)
    checked = [
        (float(bool(one.valid)), loop)
        for one, loop in zip(readings, loops, strict=True)
        if constrained and (one.valid is not None or one.error)
    ]
    lasts = [one.last for one in answered if one.last is not None]
    costs = [cost_of(one, price) for one in readings]
    passes = [(one.output, one.passes) for one in answered if one.output is not None and one.passes]
    outputs = [one.output for one in answered if one.output is not None]
    return Measure(
        group=group,
        run=run,
        n=len(readings),
        errors=dict(Counter(one.error for one in readings if one.error)),
        quality=share([one.score for one in readings], loops, level),
        valid=share([valid for valid, _ in checked], [loop for _, loop in checked], level) if checked else None,
        names=_mean([one.names for one in answered]),
        arguments=_mean([one.arguments for one in answered]),
        fields=_mean([one.fields for one in answered]),
        prose=_mean([one.prose for one in answered]),
        first=_interval([one.first for one in readings], loops, level),
        last=_interval([one.last for one in readings], loops, level),
        p50=median(lasts) if lasts else None,
        p95=quantiles(lasts, n=20)[-1] if len(lasts) > 1 else lasts[0] if lasts else None,
        per_pass=sum(output for output, _ in passes) / sum(count or 0 for _, count in passes) if passes else None,
        tokens=sum(outputs) / len(outputs) if outputs else None,
        cost=_interval(costs, loops, level),
        readings=tuple(readings),
        loops=tuple(loops),
        price=price,
    )


def cost_of(reading: Reading, price: Price | None) -> float | None:
    """Returns what a call cost, None where it is not known."""
    used = Usage(input=reading.input, cached=reading.cached, output=reading.output, passes=reading.passes)
    return None if price is None or reading.error else price.of(used, reading.share)


def compared(one: Measure, base: Measure, by: Objective, level: float) -> Interval | None:
    """Returns the objective of `one` over that of `base` on the calls that both answered; None where there is none."""
    pairs = [
        (mine, theirs, loop)
        for mine, theirs, loop in zip(one.values(by), base.values(by), one.loops, strict=True)
        if mine is not None and theirs is not None
    ]
    if not pairs or not sum(theirs for _, theirs, _ in pairs):
        return None
    above, below, loops = zip(*pairs, strict=True)
    return ratio(above, below, loops, level)


def _mean(values: Sequence[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _interval(values: Sequence[float | None], loops: Sequence[str], level: float) -> Interval | None:
    known = [(value, loop) for value, loop in zip(values, loops, strict=True) if value is not None]
    return mean([value for value, _ in known], [loop for _, loop in known], level) if known else None
