"""Sampling error of shares, means and ratios, for calls that come in loops.

Knows numbers. Does not know what they measure. Sources: Wilson (1927) for shares; Kish's design effect for calls of one
loop; the bootstrap over loops (Efron and Tibshirani 1993) for means and ratios; the differences of two estimates from
their intervals alone by Newcombe (1998) and Donner and Zou (2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.95
RESAMPLES: Final = 2_000
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its limits. `n`: calls that it was made from."""

    value: float
    low: float
    high: float
    n: int

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def share(scores: Sequence[float], loops: Sequence[str], level: float = LEVEL) -> Interval:
    """Returns the mean of scores from 0 to 1 with Wilson's interval. It is wide enough for scores between 0 and 1 too,
    because their variance is at most that of a share with the same mean.

    Calls of one loop count for less by the design effect. Where all scores are equal it cannot be seen, and each loop
    counts once.
    """
    mean, count = float(np.mean(scores)), len(scores)
    effective = count / design_effect(np.asarray(scores), loops)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (mean + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(mean * (1 - mean) / effective + z * z / (4 * effective**2))
    return Interval(mean, max(0.0, min(middle - half, mean)), min(1.0, max(middle + half, mean)), count)


def design_effect(values: Array, loops: Sequence[str]) -> float:
    """Returns the variance of the mean over what independent calls would give, from 1 to calls a loop."""
    _, which = np.unique(np.asarray(loops), return_inverse=True)
    count, clusters = len(values), int(which.max()) + 1
    if clusters in (1, count):
        return float(count) if clusters == 1 else 1.0
    residual = values - values.mean()
    if not residual.any():
        return count / clusters
    sums = np.bincount(which, weights=residual)
    found = float((sums**2).sum() / (residual**2).sum())
    return min(max(found, 1.0), float(np.bincount(which).max()))


def mean(values: Sequence[float], loops: Sequence[str], level: float = LEVEL) -> Interval:
    """Returns the mean with a bootstrap interval over loops."""
    return ratio(values, [1.0] * len(values), loops, level)


def ratio(above: Sequence[float], below: Sequence[float], loops: Sequence[str], level: float = LEVEL) -> Interval:
    """Returns the sum of `above` over that of `below`, pairs of the same calls, with a bootstrap interval over loops.

    With a single loop nothing can be resampled, and the interval is everything.
    """
    names, which = np.unique(np.asarray(loops), return_inverse=True)
    over, under = (np.bincount(which, weights=np.asarray(part, dtype=float)) for part in (above, below))
    value = float(over.sum() / under.sum()) if under.sum() else math.inf
    if len(names) < 2:
        return Interval(value, 0.0, math.inf, len(above))
    picks = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    sums = under[picks].sum(axis=1)
    drawn = np.divide(over[picks].sum(axis=1), sums, out=np.full(RESAMPLES, value), where=sums > 0)
    wider = _student(len(names), level)
    tails = (1 - level) / 2
    low, high = (float(at) for at in np.quantile(drawn, (tails, 1 - tails)))
    return Interval(value, max(0.0, value - wider * (value - low)), value + wider * (high - value), len(above))


def _student(clusters: int, level: float) -> float:
    """Returns by how much a bootstrap interval of few clusters is too narrow: the root of n / (n - 1), and Student's
    quantile over the normal one (Cornish and Fisher's expansion)."""
    z, free = NormalDist().inv_cdf((1 + level) / 2), clusters - 1
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return math.sqrt(clusters / free) * student / z


def difference(later: Interval, earlier: Interval) -> Interval:
    """Returns `later` minus `earlier`, independent estimates, with an interval from both of theirs."""
    value = later.value - earlier.value
    low = value - math.hypot(later.value - later.low, earlier.high - earlier.value)
    high = value + math.hypot(later.high - later.value, earlier.value - earlier.low)
    return Interval(value, low, high, later.n)


def relative(later: Interval, earlier: Interval) -> Interval:
    """Returns `later` over `earlier`, independent positive estimates, with an interval from both of theirs."""
    found = difference(_logarithm(later), _logarithm(earlier))
    value, low, high = (math.exp(min(at, 700.0)) for at in (found.value, found.low, found.high))
    return Interval(value, low, high, later.n)


def _logarithm(one: Interval) -> Interval:
    least = 1e-300
    value, low, high = (math.log(max(at, least)) if at < math.inf else at for at in (one.value, one.low, one.high))
    return Interval(value, low, high, one.n)


def simultaneous(count: int, level: float = LEVEL) -> float:
    """Returns the level of each of `count` intervals so that all of them hold together with `level` (Bonferroni)."""
    return 1 - (1 - level) / max(count, 1)
