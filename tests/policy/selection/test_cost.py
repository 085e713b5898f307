"""The cost model: it never says that more work is quicker, finds what is linear, and predicts a simulation's counts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode.policy.selection.cost_model import BASE_CONTEXT, CostModel, Curve, Measurement, fit, rising
from trimode.policy.selection.pricing import Costing, Passes, Workload
from trimode.policy.selection.settings import Settings
from trimode.policy.selection.variants import Variant

seconds = st.floats(1e-6, 10)
measurements = st.lists(
    st.builds(
        Measurement,
        rows=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
        context=st.sampled_from([64, 512, 900]),
        adapter=st.booleans(),
        seconds=seconds,
    ),
    max_size=30,
).map(
    lambda more: [
        Measurement(rows=1, context=64, adapter=False, seconds=0.001),
        Measurement(rows=8, context=64, adapter=False, seconds=0.002),
        Measurement(rows=1, context=64, adapter=True, seconds=0.001),
        Measurement(rows=8, context=64, adapter=True, seconds=0.002),
        *more,
    ]
)
MEMORY_BOUND: Final = CostModel(Curve((1, 256), (0.01, 0.0101)), Curve((1, 256), (0.01, 0.0101)), 0.0)
"""A machine where a pass costs the same whatever rides along."""
ROW_BOUND: Final = CostModel(Curve((1, 256), (0.001, 0.256)), Curve((1, 256), (0.001, 0.256)), 0.0)
"""A machine where rows are all that costs."""


@given(measurements, st.floats(0, 300), st.floats(0, 100), st.floats(0, 2000), st.floats(0, 500), st.booleans())
def test_more_rows_or_context_never_cost_less(
    measured: list[Measurement], rows: float, more: float, context: float, farther: float, adapter: bool
) -> None:
    model = fit(measured)
    here = model.seconds(rows, context, adapter)
    assert 0 < here <= model.seconds(rows + more, context, adapter)
    assert here <= model.seconds(rows, context + farther, adapter)


@given(measurements)
def test_a_model_is_the_same_after_its_json(measured: list[Measurement]) -> None:
    model = fit(measured)
    assert CostModel.of(json.loads(json.dumps(model.as_dict()))) == model


@given(base=st.floats(1e-4, 1), a_row=st.floats(1e-6, 1e-2), a_token=st.floats(0, 1e-6))
def test_a_linear_machine_is_found(base: float, a_row: float, a_token: float) -> None:
    def true(rows: int, context: int) -> float:
        return base + a_row * rows + a_token * rows * max(context - BASE_CONTEXT, 0)

    model = fit(
        Measurement(rows=rows, context=context, adapter=adapter, seconds=true(rows, context))
        for rows in (1, 4, 16, 64)
        for context in (BASE_CONTEXT, 1000)
        for adapter in (False, True)
    )
    for rows, context in ((1, 10), (3, 64), (40, 500), (100, 3000)):
        assert model.seconds(rows, context, rows == 3) == pytest.approx(true(rows, context))


BARE: Final = [
    Measurement(rows=rows, context=BASE_CONTEXT, adapter=adapter, seconds=(rows + adapter) * 1e-3)
    for rows in (1, 8)
    for adapter in (False, True)
]
"""A machine whose passes take a millisecond a row, and one more with the adapter."""


def loop(rows: float, seconds: float, adapter: float = 0, calls: int = 1) -> Measurement:
    return Measurement(rows=rows, context=BASE_CONTEXT, adapter=adapter, calls=calls, loop=True, seconds=seconds)


@given(slower=st.floats(1, 3), a_pass=st.floats(0, 1e-2), a_call=st.floats(0, 1e-2), late=st.floats(0, 1))
def test_what_decoding_makes_of_passes_is_found(slower: float, a_pass: float, a_call: float, late: float) -> None:
    """So many times their seconds and some more for each, by the loop in the middle of each kind."""

    def took(rows: float, adapter: float, calls: int) -> float:
        return slower * (rows + adapter) * 1e-3 + a_pass + (calls - 1) * a_call

    shapes = [(1, 0.0, 1), (4, 0.5, 1), (6.5, 1.0, 1), (8, 0.0, 8)]
    loops = [loop(shape[0], took(*shape) + more, *shape[1:]) for shape in shapes for more in (late, 0.0, 0.0)]
    model = fit([*BARE, *loops])
    for shape in shapes:
        rows, adapter, calls = shape
        assert model.seconds(rows, BASE_CONTEXT, adapter, calls) == pytest.approx(took(*shape), rel=1e-6, abs=1e-9)
    assert model.seconds(3) == pytest.approx(took(3, 0, 1), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 8), st.floats(0, 1), st.floats(1e-4, 1)), max_size=8))
def test_loops_make_no_pass_quicker_than_it_is_by_itself(found: list[tuple[float, float, float]]) -> None:
    bare, model = fit(BARE), fit([*BARE, *(loop(rows, seconds, adapter) for rows, adapter, seconds in found)])
    for rows in (1, 2, 5, 8):
        assert model.seconds(rows) >= bare.seconds(rows) * (1 - 1e-9)
        assert model.seconds(rows, adapter=0.5) >= bare.seconds(rows, adapter=0.5) * (1 - 1e-9)


def test_loops_of_one_kind_say_nothing_of_rows() -> None:
    model = fit([*BARE, loop(1, 1.5e-3)])
    assert model.per_pass == pytest.approx(0.5e-3)
    assert model.plain == fit(BARE).plain


@given(st.lists(seconds, min_size=1))
def test_rising_takes_nothing_away_but_falls(values: list[float]) -> None:
    fitted = rising(values)
    assert list(fitted) == sorted(fitted)
    assert all(low <= value for low, value in zip(fitted, values, strict=True))
    assert set(fitted) <= set(values)
    assert fitted[-1] == values[-1]
    if values == sorted(values):
        assert list(fitted) == values


@pytest.mark.parametrize(
    "curve", [((1,), (1,)), ((2, 1), (1, 2)), ((1, 2), (2, 1)), ((1, 2), (0, 1)), ((1, 2, 3), (1, 2))]
)
def test_what_is_no_curve(curve: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="points that rise"):
        Curve(*curve)


def costing_of(model: CostModel, load: Workload) -> Costing:
    return Costing(Passes(model, load), load)


def simulated(
    chance: list[float], decisions: int, length: int, rows: int | None, rng: random.Random
) -> tuple[int, int]:
    """(linear cycles, quadratic passes) of one output, without forced tokens."""

    def accepted(limit: int) -> int:
        return next((at for at in range(limit) if rng.random() >= chance[at]), limit)

    cycles, left = 0, decisions - 1
    while left > 0:
        cycles, left = cycles + 1, left - 1 - accepted(min(length - 1, left - 1))
    ends = [1.0]
    for q in chance[: length - 1]:
        ends.append(ends[-1] * q)
    likeliest = sorted(range(length - 1), key=lambda at: ends[at] - ends[at + 1], reverse=True)
    points = {length - 1, *likeliest[: length if rows is None else rows - 1]}
    passes, left, drafted = 0, decisions - 1, True
    while left > 0:
        took = accepted(min(length - 1, left - 1)) if drafted else 0
        passes, left, drafted = passes + 1, left - 1 - took, not drafted or took in points
    return cycles, passes


@pytest.mark.parametrize("chance", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("decisions", [3, 12, 60])
@pytest.mark.parametrize(("length", "rows"), [(4, None), (8, 2), (16, None)])
def test_passes_are_those_of_a_simulation(chance: float, decisions: int, length: int, rows: int | None) -> None:
    curve = [chance] * 31
    runs = [simulated(curve, decisions, length, rows, random.Random(at)) for at in range(1500)]
    cycles, passes = (sum(counts) / len(runs) for counts in zip(*runs, strict=True))
    costing = costing_of(
        MEMORY_BOUND, Workload(decisions=decisions, acceptance={"linear_spec": curve, "quadratic_spec": curve})
    )
    assert costing.cost(Variant("ar")).passes == decisions - 1
    assert costing.cost(Variant("linear_spec", length)).passes == pytest.approx(2 * cycles, rel=0.16)
    assert costing.cost(Variant("quadratic_spec", length, rows)).passes == pytest.approx(passes, rel=0.2)


@pytest.mark.parametrize("chance", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("match", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("decisions", "length"), [(12, 4), (60, 16)])
def test_passes_with_and_without_a_copied_draft_are_those_of_a_simulation(
    chance: float, match: float, decisions: int, length: int
) -> None:
    rng, passes = random.Random(1), 0
    for _ in range(1500):
        left = decisions - 1
        while left > 0:
            limit = min(length - 1, left - 1) if rng.random() < match else 0
            left -= 1 + next((at for at in range(limit) if rng.random() >= chance), limit)
            passes += 1
    load = Workload(decisions=decisions, acceptance={"lookup_spec": [chance] * 31}, match=match)
    cost = costing_of(MEMORY_BOUND, load).cost(Variant("lookup_spec", length))
    assert cost.passes == pytest.approx(passes / 1500, rel=0.16)


def test_a_copied_draft_costs_the_rows_that_it_has() -> None:
    load = Workload(decisions=40, acceptance={"lookup_spec": [0.5] * 31}, match=0.5, copies=2.0)
    longer = Workload(decisions=40, acceptance={"lookup_spec": [0.5] * 31}, match=0.5)
    short, full = (costing_of(ROW_BOUND, one).cost(Variant("lookup_spec", 16)) for one in (load, longer))
    assert short.passes == full.passes
    assert short.a_round[1] == pytest.approx(0.003, rel=1e-3)
    assert full.a_round[1] == pytest.approx(0.016)
    nothing = costing_of(ROW_BOUND, Workload(decisions=40, match=0.0))
    assert nothing.cost(Variant("lookup_spec")).seconds == pytest.approx(nothing.cost(Variant("ar")).seconds)


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize(("length", "decisions"), [(4, 60), (8, 60), (16, 40), (32, 9)])
def test_a_cycle_that_decides_a_token_is_priced_as_a_simulation_counts_it(
    chance: float, length: int, decisions: int
) -> None:
    """The prompt's pass drafts for the first cycle; the last two tokens are not drafted."""

    def passes(rng: random.Random) -> int:
        count, left = -1, decisions
        while left > 0:
            drafted = min(length - 1, left - 2) if left > 2 else 0
            took = next((at for at in range(drafted) if rng.random() >= chance), drafted)
            count, left = count + (2 if left > 2 else 1), left - (2 + took if left > 2 else 1)
        return count

    counted = sum(passes(random.Random(at)) for at in range(1500)) / 1500
    model = replace(MEMORY_BOUND, exact_first=True)
    load = Workload(decisions=decisions, acceptance={"linear_spec": [chance] * 31})
    found = costing_of(model, load).cost(Variant("linear_spec", length))
    assert found.passes == pytest.approx(counted, rel=0.2, abs=0.5)
    assert found.seconds == pytest.approx(0.01 * found.passes, rel=0.03)
    said = costing_of(MEMORY_BOUND, load).cost(Variant("linear_spec", length, exact_first=True))
    assert said == found
    assert costing_of(model, load).cost(Variant("linear_spec", length, exact_first=False)) == costing_of(
        MEMORY_BOUND, load
    ).cost(Variant("linear_spec", length))


def test_the_longest_block_that_a_drafter_knows_is_the_length_where_nobody_says_one() -> None:
    load = Workload(decisions=60, acceptance={"linear_spec": [0.9] * 31, "quadratic_spec": [0.9] * 31})
    short = costing_of(replace(ROW_BOUND, longest=8), load)
    for mode in ("linear_spec", "quadratic_spec"):
        assert short.cost(Variant.of(mode, Settings())) == short.cost(Variant(mode, 8))
    assert costing_of(ROW_BOUND, load).cost(Variant("linear_spec")) == costing_of(ROW_BOUND, load).cost(
        Variant("linear_spec", 32)
    )


def best(model: CostModel, load: Workload) -> Variant:
    variants = [Variant("ar"), *(Variant("linear_spec", length) for length in (4, 8, 16, 32))]
    variants += [Variant("quadratic_spec", 6, 2), Variant("quadratic_spec", 16)]
    return min(variants, key=lambda variant: costing_of(model, load).cost(variant).seconds)


def test_the_machine_decides() -> None:
    drafts = {"linear_spec": [0.9] * 31, "quadratic_spec": [0.9] * 31}
    load = Workload(decisions=60, acceptance=drafts)
    assert best(ROW_BOUND, load).mode == "ar"
    assert best(MEMORY_BOUND, load).mode == "quadratic_spec"
    assert best(MEMORY_BOUND, Workload(decisions=60, acceptance=dict.fromkeys(drafts, [0.05] * 31))).mode in (
        "ar",
        "quadratic_spec",
    )


def test_short_outputs_and_full_batches_take_short_drafts() -> None:
    knee = CostModel(Curve((1, 32, 128), (0.01, 0.012, 0.05)), Curve((1, 32, 128), (0.01, 0.012, 0.05)), 0.0)
    drafts = {"linear_spec": [0.95] * 31}
    variants = [Variant("ar"), *(Variant("linear_spec", length) for length in (4, 8, 16, 32))]

    def chosen(decisions: int, calls: int) -> Variant:
        costing = costing_of(knee, Workload(decisions=decisions, acceptance=drafts, calls=calls, rows_of_others=4.0))
        return min(variants, key=lambda variant: costing.cost(variant).price)

    lengths = [chosen(decisions, 1).block_length for decisions in (5, 12, 100)]
    assert lengths == sorted(lengths, key=lambda length: length or 0)
    assert (lengths[0] or 0) < (lengths[-1] or 0)
    assert (chosen(100, 8).block_length or 0) < (chosen(100, 1).block_length or 0)
    assert chosen(100, 64).mode == "ar"


def test_words_of_a_variant() -> None:
    assert str(Variant("ar")) == "ar"
    assert str(Variant("quadratic_spec", 8, 2)) == "quadratic_spec:8:2"
    assert str(Variant("diffusion", 16, threshold=0.9)) == "diffusion:16@0.9"
    assert Variant("linear_spec", 8).settings.given() == {"mode": "linear_spec", "block_length": 8}
