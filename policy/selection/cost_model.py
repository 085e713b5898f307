"""Seconds of a pass on one machine with one checkpoint, by its rows, their context and the calls that share it.

Knows numbers only. Does not know who measures passes, or the modes that run them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from statistics import median
from typing import Any, Final

BASE_CONTEXT: Final = 64
"""Tokens of context with which the curves by rows are measured; a shorter context counts as this many."""
EVEN: Final = 1e-9
"""Part of the largest possible variance, below which measured passes count as all of one size."""

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measured seconds of one pass: its rows, their context in tokens, whether they use the draft adapter, and the
    number of calls that they belong to.

    `loop`: the seconds are those from one pass of a decoding call to the next, the engine's own work included. Such
    passes differ, so `rows` is their average and `adapter` the part of them that uses the adapter.
    """

    rows: float
    context: int
    adapter: float
    seconds: float
    calls: int = 1
    loop: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """A piecewise linear curve through (rows, seconds), both rising; beyond the last point it continues the last
    piece."""

    rows: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.rows, self.rows[1:], strict=False))
        never_falls = all(0 < a <= b for a, b in zip(self.seconds, self.seconds[1:], strict=False))
        if not (len(self.rows) == len(self.seconds) >= 2 and rising and never_falls):
            raise ValueError(f"rows {self.rows}, seconds {self.seconds}: expected two or more points that rise")

    def at(self, rows: float) -> float:
        """Returns the seconds of `rows`; fewer rows than the first point's cost as much as that point."""
        x, y = self.rows, self.seconds
        if rows <= x[0]:
            return y[0]
        right = min(bisect_right(x, rows), len(x) - 1)
        return y[right - 1] + (y[right] - y[right - 1]) * (rows - x[right - 1]) / (x[right] - x[right - 1])


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a pass during decoding: a curve by rows, without and with the draft adapter, and seconds for each row
    and token of context.

    `per_call`: seconds for each call of a pass beyond the first, in addition to its rows. `per_pass`: seconds of the
    engine's own work between two passes, for any number of rows. `exact_first`: whether a drafting pass of
    `linear_spec` decides a token of its own where nobody says; `longest`: the longest block that the drafter was
    trained for, None if that is not known.
    """

    plain: Curve
    adapted: Curve
    per_row_token: float
    per_call: float = 0.0
    per_pass: float = 0.0
    exact_first: bool = False
    longest: int | None = None

    def seconds(self, rows: float, context: float = BASE_CONTEXT, adapter: float = False, calls: float = 1) -> float:
        """Returns the seconds of a pass with `rows` query tokens of all `calls`, each after `context` tokens. More of
        any never costs less.

        `adapter`: whether the rows use the draft adapter, or the part of several passes that does.
        """
        curves = (1 - adapter) * self.plain.at(rows) + adapter * self.adapted.at(rows)
        longer = self.per_row_token * max(rows, 1) * max(context - BASE_CONTEXT, 0)
        return curves + longer + self.per_call * max(calls - 1, 0) + self.per_pass

    def slower(self, by: float) -> CostModel:
        """Returns a model of passes that take `by` times as long."""
        plain, adapted = (
            replace(each, seconds=tuple(by * took for took in each.seconds)) for each in (self.plain, self.adapted)
        )
        slopes = {name: by * getattr(self, name) for name in ("per_row_token", "per_call")}
        return replace(self, plain=plain, adapted=adapted, **slopes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> CostModel:
        """Reads what `as_dict` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        plain, adapted = (Curve(*(tuple(map(float, found[name][axis])) for axis in ("rows", "seconds"))) for name in
                          ("plain", "adapted"))  # fmt: skip
        slopes = {name: float(found[name]) for name in ("per_row_token", "per_call", "per_pass")}
        for name, slope in slopes.items():
            if not 0 <= slope < 1:
                raise ValueError(f"{name}={slope}: expected seconds")
        exact_first, longest = found.get("exact_first", False), found.get("longest")
        if not isinstance(exact_first, bool) or not isinstance(longest, int | None):
            raise TypeError(f"exact_first={exact_first!r}, longest={longest!r}: expected true or false, and a number")
        return cls(plain, adapted, **slopes, exact_first=exact_first, longest=longest)


def fit(measured: Iterable[Measurement]) -> CostModel:
    """Fits a monotone model to passes at two or more row counts. Of several passes of one shape the fastest counts; of
    loops, the median.

    The adapter costs nothing where no pass with it was measured, and further calls cost nothing where no pass of
    several calls was.
    """
    passes, loops = list[Measurement](), list[Measurement]()
    for one in measured:
        (loops if one.loop else passes).append(one)
    return _looped(_bare(passes), loops)


def _looped(model: CostModel, loops: Iterable[Measurement]) -> CostModel:
    """Returns `model` corrected by measured decoding loops: a factor, because the processor's caches are colder there,
    then seconds for each pass, then for each further call."""
    shapes = defaultdict[tuple[float, int, float, int], list[float]](list)
    for one in loops:
        shapes[one.rows, one.context, one.adapter, one.calls].append(one.seconds)
    pairs = [(shape[3], model.seconds(*shape), median(found)) for shape, found in shapes.items()]
    slower, per_pass = _affine([(bare, took) for calls, bare, took in pairs if calls == 1])
    excess = ((took - slower * bare - per_pass) / (calls - 1) for calls, bare, took in pairs if calls > 1)
    model = model.slower(slower)
    return replace(model, per_pass=per_pass, per_call=model.per_call + max(min(excess, default=0.0), 0.0))


def _affine(pairs: Sequence[Pair]) -> Pair:
    """Returns (a, b) with a >= 1 and b >= 0 that minimize the squared relative error of a x + b against y."""
    if not pairs:
        return 1.0, 0.0
    n, x = sum(1 / y**2 for _, y in pairs), sum(x / y**2 for x, y in pairs)
    square, y, both = sum((x / y) ** 2 for x, y in pairs), sum(1 / y for _, y in pairs), sum(x / y for x, y in pairs)
    spread = n * square - x * x
    a = (n * both - x * y) / spread if spread > EVEN * n * square else 1.0
    b = (y - max(a, 1.0) * x) / n
    return (max(a, 1.0), b) if b >= 0 else (max(both / square, 1.0), 0.0)


def _bare(measured: Iterable[Measurement]) -> CostModel:
    """Fits the model to single passes, measured without a decoding loop around them."""
    best: dict[tuple[bool, int, int], float] = {}
    shared: dict[int, dict[tuple[bool, int, int], float]] = {}
    for one in measured:
        key, times_of = (
            (bool(one.adapter), int(one.rows), one.context),
            best if one.calls == 1 else shared.setdefault(one.calls, {}),
        )
        times_of[key] = min(times_of.get(key, one.seconds), one.seconds)
    slope = _slope(best)
    times: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for (adapter, rows, context), seconds in best.items():
        bare = max(seconds - slope * rows * max(context - BASE_CONTEXT, 0), 1e-9)
        times[adapter][rows] = min(bare, times[adapter].get(rows, bare))
    plain, adapted = times[False], times[True] or times[False]
    # A plain pass measured slower than an adapted one was disturbed by other work, because the adapter is extra work.
    plain = {rows: min(seconds, adapted.get(rows, seconds)) for rows, seconds in plain.items()}
    more = [max(shared[n][key] - best[key], 0.0) / (n - 1) for n in shared for key in shared[n] if key in best]
    return CostModel(_curve(plain), _curve(adapted), slope, min(more, default=0.0))


def _curve(times: Mapping[int, float]) -> Curve:
    points = sorted(times)
    return Curve(tuple(points), rising([times[rows] for rows in points]))


def _slope(best: Mapping[tuple[bool, int, int], float]) -> float:
    """Returns the seconds of one more token of context for each row, by least squares at equal rows; never negative."""
    over = under = 0.0
    for (adapter, rows, context), seconds in best.items():
        shorter = [other for other in best if other[:2] == (adapter, rows) and other[2] < context]
        if shorter:
            base = min(shorter, key=lambda other: other[2])
            work = rows * (max(context - BASE_CONTEXT, 0) - max(base[2] - BASE_CONTEXT, 0))
            over, under = over + work * (seconds - best[base]), under + work * work
    return max(over / under, 0.0) if under else 0.0


def rising(values: Sequence[float]) -> tuple[float, ...]:
    """Returns the largest non-decreasing sequence below `values`, because other work can only slow a pass down."""
    return tuple(reversed(list(accumulate(reversed(values), min))))
