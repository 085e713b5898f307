"""Sampling errors: known values, coverage, and what loops do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimode.integrations.workload.routing import needed
from trimode.integrations.workload.scoring.intervals import (
    Interval,
    design_effect,
    difference,
    mean,
    ratio,
    relative,
    share,
    simultaneous,
)

ALONE = [str(at) for at in range(1000)]
scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_by_newcombes_table(hits: int, count: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    found = share([1.0] * hits + [0.0] * (count - hits), ALONE[:count])
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(scores)
def test_shares_stay_between_0_and_1_around_their_mean(values: list[float]) -> None:
    found = share(values, ALONE[: len(values)])
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high, "no sample is free of error"


def test_calls_of_one_loop_count_for_less() -> None:
    values = [1.0] * 20 + [0.0] * 20
    together = [str(at // 4) for at in range(40)]
    apart = [str(at % 10) for at in range(40)]
    alone, alike, mixed = (share(values, loops) for loops in (ALONE[:40], together, apart))
    assert alike.high - alike.low > mixed.high - mixed.low >= alone.high - alone.low
    assert design_effect(np.asarray(values), together) == 4


def test_equal_scores_count_once_a_loop() -> None:
    assert share([1.0] * 40, [str(at // 4) for at in range(40)]).low == share([1.0] * 10, ALONE[:10]).low


def test_a_single_loop_says_nothing_of_means() -> None:
    assert mean([1.0, 2.0], ["a", "a"]).high == math.inf


def test_intervals_cover_what_they_estimate() -> None:
    """Samples of 30 calls in 15 loops. The bootstrap of so few loops is known to be a little too narrow."""
    random = np.random.default_rng(7)
    loops = [str(at // 2) for at in range(30)]
    held = [0, 0, 0]
    for _ in range(600):
        of_loop = random.beta(4, 2, 15).repeat(2)
        hits = (random.random(30) < of_loop).astype(float)
        held[0] += share(list(hits), loops).holds(4 / 6)
        seconds = random.lognormal(0, 0.3, 30) * random.lognormal(0, 0.2, 15).repeat(2)
        held[1] += mean(list(seconds), loops).holds(math.exp(0.3**2 / 2 + 0.2**2 / 2))
        held[2] += ratio(list(0.8 * seconds * random.lognormal(0, 0.1, 30)), list(seconds), loops).holds(
            0.8 * math.exp(0.1**2 / 2)
        )
    assert min(held) >= 0.915 * 600, held


def test_the_same_sample_gives_the_same_interval() -> None:
    assert mean([1.0, 2.0, 4.0], ["a", "b", "c"]) == mean([1.0, 2.0, 4.0], ["a", "b", "c"])


@given(scores, scores)
def test_a_difference_holds_0_where_the_samples_are_the_same(one: list[float], other: list[float]) -> None:
    first, second = share(one, ALONE[: len(one)]), share(other, ALONE[: len(other)])
    assert difference(first, first).holds(0)
    there, back = difference(first, second), difference(second, first)
    assert math.isclose(there.low, -back.high, abs_tol=1e-12)
    assert there.low <= there.value <= there.high


def test_newcombes_difference() -> None:
    """Newcombe (1998), Statistics in Medicine 17, 873-890, table II, case (a), method 10: 56/70 - 48/80."""
    first = share([1.0] * 56 + [0.0] * 14, ALONE[:70])
    second = share([1.0] * 48 + [0.0] * 32, ALONE[:80])
    found = difference(first, second)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_ratios_of_ratios() -> None:
    found = relative(Interval(0.5, 0.4, 0.6, 10), Interval(1.0, 0.8, 1.2, 10))
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.4
    assert found.high < 1
    assert relative(Interval(1.0, 0.0, math.inf, 1), Interval(1.0, 0.5, 2.0, 9)).holds(100)


def test_bonferroni() -> None:
    assert simultaneous(1) == 0.95
    assert simultaneous(5) == pytest.approx(0.99)


@given(st.floats(0.5, 1), st.floats(0.5, 0.99))
def test_the_calls_that_are_needed_are_enough(mean: float, wanted: float) -> None:
    count = needed(mean, wanted, 0.95)
    assume(count is not None)
    assert count is not None
    assert share([mean] * count, [str(at) for at in range(count)]).low >= wanted
