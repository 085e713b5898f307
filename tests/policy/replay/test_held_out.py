"""Predictions checked on recorded calls that they were not made from; modes that these refute are not written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loaded import SHORT

import trimode as tm
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import PolicyError
from trimode.policy.replay import held_out
from trimode.policy.replay.held_out import MOST, REPEATS, checked, halves, tuned_and_checked
from trimode.policy.replay.under_policies import decoded_under
from trimode.policy.replay.what_if import Check, compared, learned_from, refused_share, tuned
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.offers import Weights
from trimode.policy.selection.policies import Policy, StepContext
from trimode.policy.selection.settings import Settings

LEVEL = Curve((1.0, 64.0), (0.01, 0.01))
GPU = CostModel(LEVEL, LEVEL, 0.0)
SPEC = Policy(name="spec", kinds={kind: Settings(mode="linear_spec", block_length=4) for kind in ("json", "prose")})


@pytest.fixture(scope="module")
def calls(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[CallRecord]:
    path = tmp_path_factory.mktemp("held") / "audit.jsonl"
    with tm.session(reference, policy=Policy(), trace=f"file:{path}", content=True):
        for seed in range(4):
            words: dict[str, Any] = {"temperature": 0.8, "seed": seed}
            reference.generate("The table is", step="prose", max_tokens=14, mode="linear_spec", **words)
            reference.generate("Measure:", schema=SHORT, max_tokens=30, mode="linear_spec", block_length=8, **words)
    return records(read_audit(path))


@pytest.fixture
def engine(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setitem(reference.__dict__, "cost", GPU)
    return reference


def test_every_second_call_of_a_step_is_held_out(calls: list[CallRecord]) -> None:
    learning, held = halves(calls)
    assert [call.call for call in learning] == [call.call for at, call in enumerate(calls) if at % 4 < 2]
    assert len(held) == 4
    assert not {call.call for call in learning} & {call.call for call in held}


def test_predictions_and_decoded_numbers_are_of_the_same_calls(calls: list[CallRecord], engine: Engine) -> None:
    ar = replace(SPEC, kinds={kind: Settings(mode="ar") for kind in ("json", "prose")})  # of the same name
    checks, why = checked(calls, [SPEC, ar], engine)
    assert why == ""
    assert set(checks) == {("generate", kind, number) for kind in ("json", "prose") for number in (0, 1)}
    for (_, _, number), check in checks.items():
        assert (check.policy, check.calls) == ("spec", 2)
        assert check.predicted_tokens_per_s > 0
        assert check.decoded_tokens_per_s > 0
        assert (check.decoded_accepted is None) == (check.predicted_accepted is None) == (number == 1)
        assert check.error == pytest.approx(check.predicted_tokens_per_s / check.decoded_tokens_per_s - 1)
    rows = compared(calls, [SPEC, ar], GPU, engine.weights, checks)
    assert [row.check is None for row in rows] == [True, False, False] * 2
    assert rows[1].check is checks["generate", "json", 0]


def test_nothing_of_a_held_out_call_enters_its_prediction(calls: list[CallRecord], engine: Engine) -> None:
    learning, held = halves(calls)
    other = [replace(call, rounds=(), counts=replace(call.counts, seconds=9e9)) for call in held if call.counts]
    assert {call.call for call in other} == {call.call for call in held}
    mixed = {call.call: call for call in (*learning, *other)}
    found, _ = checked(calls, [SPEC], engine)
    again, _ = checked([mixed[call.call] for call in calls], [SPEC], engine)
    for key, check in found.items():
        assert check.predicted_tokens_per_s == again[key].predicted_tokens_per_s
        assert check.predicted_accepted == again[key].predicted_accepted


def test_what_cannot_be_checked_says_why(calls: list[CallRecord], engine: Engine) -> None:
    assert checked(calls[:2], [SPEC], engine) == ({}, "no step was recorded twice, so no call can be held out")
    bare = [replace(call.redacted(), call=call.call) for call in calls]
    checks, why = checked(bare, [SPEC], engine)
    assert (checks, "no token ids" in why) == ({}, True)
    foreign = [replace(call, runtime=replace(call.runtime, model_sha256="0" * 64)) for call in calls]
    assert checked(foreign, [SPEC], engine) == ({}, "the calls were recorded with other weights")
    found = tuned_and_checked(bare, engine)
    assert (found.policy, found.refuted) == (tuned(bare, GPU, "tuned", engine.weights), ())
    assert found.unchecked == why
    with pytest.raises(PolicyError, match="record some first"):
        tuned_and_checked([], engine)


@pytest.mark.parametrize(("against_ar", "mode"), [(0.9, "ar"), (1.1, "linear_spec")])
def test_a_refuted_mode_is_not_written(
    calls: list[CallRecord], engine: Engine, monkeypatch: pytest.MonkeyPatch, against_ar: float, mode: str
) -> None:
    best = Policy(name="t", kinds={"json": Settings(mode="linear_spec"), "prose": Settings(mode="ar")})
    check = Check(
        policy="t", calls=2, predicted_tokens_per_s=2.0, decoded_tokens_per_s=1.0, predicted_accepted=0.8,
        decoded_accepted=0.5, against_ar=against_ar,
    )  # fmt: skip
    monkeypatch.setattr(held_out, "tuned", lambda *_: best)
    monkeypatch.setattr(held_out, "checked", lambda *_: ({("act", "json", 0): check, ("talk", "prose", 0): check}, ""))
    found = tuned_and_checked(calls, engine)
    assert found.policy.kinds["json"].mode == mode
    assert found.policy.resolve(StepContext(kind="json", name="act")).mode == mode
    assert found.refuted == (("act",) if mode == "ar" else ())
    assert found.policy.kinds["prose"].mode == "ar"
    assert check.error == 1.0


def test_each_call_is_decoded_a_bounded_number_of_times(
    calls: list[CallRecord], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    decode = decoded_under

    def counted(*words: Any) -> object:
        nonlocal count
        count += 1
        return decode(*words)

    monkeypatch.setattr(held_out, "decoded_under", counted)
    many = [call for call in calls if call.kind == "prose"] * 10
    checks, _ = checked(many, [SPEC], engine)
    assert [check.calls for check in checks.values()] == [MOST]
    assert count == MOST * REPEATS * 2  # under ar and under the policy


def test_drafts_that_the_schema_refuses_count_as_drafted(calls: list[CallRecord]) -> None:
    held = [call for call in calls if call.kind == "json"]
    rounds = [round_ for call in held for round_ in call.rounds]
    refused = sum(reason == "schema" for round_ in rounds for _, reason in round_.rejected)
    assert refused_share(held) == pytest.approx(refused / sum(round_.drafted for round_ in rounds))
    assert 0 < refused_share(held) < 1
    free = [call for call in calls if call.kind == "prose"]
    assert refused_share(free, calls) == 0
    bare = [replace(call, rounds=()) for call in held]
    assert refused_share(bare, calls) == refused_share(calls)


def lasting(calls: list[CallRecord], seconds: float) -> list[CallRecord]:
    """The calls, as if each had decoded for so long."""
    counts = [call.counts for call in calls]
    return [
        replace(call, counts=replace(count, seconds=count.prefill_seconds + seconds))
        for call, count in zip(calls, counts, strict=True)
        if count is not None
    ]


def test_recorded_seconds_enter_the_prediction(calls: list[CallRecord]) -> None:
    one, two = (compared(lasting(calls, seconds), [SPEC], GPU) for seconds in (10.0, 20.0))
    assert [row.derived for row in one] == [False, True] * 2
    for a, b in zip(one, two, strict=True):
        assert a.tokens_per_s is not None
        assert b.tokens_per_s is not None
        assert 1.7 < a.tokens_per_s / b.tokens_per_s <= 2.001  # less where the prior has some weight
        assert a.passes == b.passes


def test_short_drafts_of_long_blocks_do_not_make_the_mode_look_quick(calls: list[CallRecord]) -> None:
    steep = Curve((1.0, 64.0), (0.001, 0.064))
    steps = CostModel(steep, steep, 0.0)
    free = [call for call in calls if call.kind == "prose"]
    whole = learned_from(free, steps)
    context = StepContext(kind="prose", name="generate")
    assert whole.paced == len(free)
    cut = [
        replace(call, rounds=tuple(replace(round_, drafted=2, rejected=()) for round_ in call.rounds)) for call in free
    ]
    assert learned_from(cut, steps).slowdown(context, 0.8, "linear_spec") > whole.slowdown(context, 0.8, "linear_spec")


def test_tuning_knows_the_weights(calls: list[CallRecord]) -> None:
    only = Weights(name="LlamaForCausalLM", modes=("ar",))
    assert {settings.mode for settings in tuned(calls, GPU, "t", only).kinds.values()} == {"ar"}
    unnamed = compared(calls, [Policy(name="open")], GPU, only)
    assert {row.mode for row in unnamed if row.derived} == {"ar"}


def test_files_are_named_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[kinds.json]\nmode = "ar"\n')
    assert Policy.from_toml(tmp_path / "a.toml").name == str(tmp_path / "a.toml")
