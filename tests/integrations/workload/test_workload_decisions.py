"""What goes where and why; promises, the policy file, and held-out calls that keep or break them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_calls import Echo, call

from trimode.integrations.workload.calls import Answer, Log, RecordedCall, Times, Usage
from trimode.integrations.workload.quality import Quality, quality_of
from trimode.integrations.workload.readings import Store
from trimode.integrations.workload.refusals import RouteRefused, RunRefused
from trimode.integrations.workload.route_file import read_routes, routes_text
from trimode.integrations.workload.sampling import Draw
from trimode.integrations.workload.scoring.prices import Price, Prices
from trimode.integrations.workload.show.as_json import study_json
from trimode.integrations.workload.study import Plan, Study, studied, total
from trimode.policy.errors import PolicyError
from trimode.policy.selection.policies import Policy

Say = Callable[[RecordedCall], Answer | None]
AR = {"mode": "ar"}


def still(_title: str, _total: int) -> Callable[[], object]:
    return lambda: None


def study(*targets: Echo, count: int = 160, recorded: bool = True, plan: Plan | None = None, **fields: Any) -> Study:
    calls = tuple(call(at, loop=f"loop {at}", **fields) for at in range(count))
    log = Log(names=("log.jsonl",), calls=calls)
    return studied(log, targets, recorded, plan or Plan(), Store(), still)


def wrong_in(one_of: int) -> Say:
    """Says something else in one of so many calls."""
    return lambda one: Answer("{}") if int(one.id.partition(":")[2]) % one_of == 0 else one.answer


def test_the_cheapest_run_that_is_as_good_takes_the_group() -> None:
    found = study(Echo("local:ar", 0.8), Echo("local:linear_spec", 0.4), Echo("local:diffusion", 0.2, wrong_in(4)))
    (decision,) = found.decisions
    assert (decision.run, found.baseline, found.by) == ("local:linear_spec", "recorded", "seconds")
    assert decision.against is not None
    assert decision.against.value == pytest.approx(0.44, abs=0.01)
    gain = total(found)
    assert gain is not None
    assert gain.value == pytest.approx(decision.against.value)
    assert [one.verdict for one in found.checks] == ["kept"]


def test_what_is_not_good_enough_stays_whatever_it_saves() -> None:
    found = study(Echo("local:ar", 0.01, wrong_in(2)))
    (decision,) = found.decisions
    assert decision.stays
    assert "no run reaches 0.90: best local:ar with 0." in decision.reason
    assert (found.promises, found.checks, total(found)) == ((), (), None)


def test_too_few_calls_decide_nothing_and_say_how_many_would() -> None:
    (decision,) = study(Echo("local:ar", 0.1), count=20).decisions
    assert decision.stays
    assert "undecided" in decision.reason
    assert "about 35 calls" in decision.reason


def test_a_difference_within_the_error_is_no_gain() -> None:
    loops = tuple(call(at, loop=f"loop {at}", times=Times(last=0.2 + (at % 17) / 10)) for at in range(160))
    found = studied(Log(names=("l",), calls=loops), [Echo("local:ar", 0.89)], True, Plan(), Store(), still)
    (decision,) = found.decisions
    assert decision.stays
    assert "not more than the error" in decision.reason


def test_a_log_without_times_is_not_compared_with() -> None:
    found = study(Echo("local:ar", 0.5), Echo("local:auto", 0.25), times=Times())
    (decision,) = found.decisions
    assert (found.baseline, decision.run) == ("local:ar", "local:auto")
    assert found.lacks == {"no times: what runs now cannot be compared with it": 160}


def test_errors_count_against_a_run() -> None:
    found = study(Echo("local:ar", 0.1, lambda one: None if one.id.endswith("0") else one.answer))
    measure = found.of("measure", "local:ar")
    assert measure is not None
    assert measure.errors == {"RequestError": 8 if measure.n == 80 else measure.errors["RequestError"]}
    assert measure.quality.value < 1
    assert measure.valid is not None
    assert measure.valid.value == measure.quality.value


def test_a_run_that_answers_nothing_says_so() -> None:
    (decision,) = study(Echo("local:ar", 0.1, lambda _: None)).decisions
    assert decision.reason == "no run answered it (RequestError)"


def test_cost_decides_where_all_has_a_price() -> None:
    tables = {"recorded": Price(input=1.0, output=2.0), "local": Price(hour=1e-9), "gpu": Price(input=9.0, output=9.0)}
    plan = Plan(prices=Prices(currency="USD", tables=tables))
    found = study(Echo("local:ar", 2.0), Echo("gpu:ar", 0.1), plan=plan)
    (decision,) = found.decisions
    assert (found.by, decision.run) == ("cost", "local:ar")
    measure = found.of("measure", "gpu:ar")
    assert measure is not None
    assert measure.cost is not None
    assert measure.cost.value == pytest.approx((100 * 9 + 20 * 9) / 1e6)
    cheap = found.of("measure", "recorded")
    assert cheap is not None
    assert cheap.cost is not None
    assert cheap.cost.value == pytest.approx((100 + 40) / 1e6)


def test_quality_by_kind() -> None:
    given = quality_of(["0.8", "json=0.99"])
    assert given == Quality(every=0.8, kinds={"json": 0.99})
    assert given.of(["prose", "json"]) == 0.99
    assert study(Echo("local:ar", 0.1, wrong_in(10)), plan=Plan(quality=given)).decisions[0].stays
    for wrong in ("2", "-1", "much", "jsn=0.9", "json=", "nan"):
        with pytest.raises(RunRefused, match="--quality"):
            quality_of([wrong])


def test_a_promise_that_held_out_calls_break() -> None:
    """The target is right in the sample and wrong from then on, and slower."""
    asked = list[str]()

    def say(one: RecordedCall) -> Answer | None:
        asked.append(one.id)
        return one.answer if len(asked) <= 80 else Answer("{}")

    (found,) = study(Echo("local:ar", 0.3, say)).checks
    assert found.verdict == "broken"
    assert "quality" in found.why
    assert found.quality_off is not None
    assert found.quality_off.high < 0


def test_the_policy_file_is_a_policy_and_is_read_again(tmp_path: Path) -> None:
    targets = Echo("local:ar", 0.8, settings=AR), Echo("local:linear_spec", 0.4, settings={"mode": "linear_spec"})
    found = study(*targets)
    path = tmp_path / "policy.toml"
    path.write_text(routes_text(found, targets))
    policy = Policy.from_toml(path)
    assert {name: settings.mode for name, settings in policy.steps.items()} == {"measure": "linear_spec"}
    routes = read_routes(path)
    assert routes.promises == found.promises
    assert (routes.draw, routes.level, routes.baseline) == (found.plan.draw, found.level, "recorded")
    assert routes.runs == ("recorded", "local:linear_spec")


def test_a_group_of_another_engine_is_in_the_file_and_not_in_the_policy(tmp_path: Path) -> None:
    targets = Echo("local:ar", 0.8, settings=AR), Echo("gpu", 0.1)
    path = tmp_path / "policy.toml"
    path.write_text(routes_text(study(*targets), targets))
    assert dict(Policy.from_toml(path).steps) == {}
    assert [promise.run for promise in read_routes(path).promises] == ["gpu"]


def test_what_stays_is_in_the_file_with_its_reason(tmp_path: Path) -> None:
    target = Echo("local:ar", 0.1, wrong_in(2), AR)
    found = study(target)
    path = tmp_path / "policy.toml"
    path.write_text(routes_text(found, [target]))
    assert found.decisions[0].reason in path.read_text()
    assert read_routes(path).promises == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('name = "mine"\n', RouteRefused),
        ("[workload]\nby = 'seconds'\n", RouteRefused),
        ("[workload]\nby = 'luck'\n", RouteRefused),
        ("[workload.groups.a]\nrun = 'local:ar'\n", RouteRefused),
        ("[steps.a]\nmode = 'fast'\n", PolicyError),
        ("[workloads]\n", PolicyError),
    ],
)
def test_files_without_promises_are_refused(tmp_path: Path, text: str, error: type[Exception]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(error, match=r"policy\.toml"):
        read_routes(path)


def test_the_same_seed_measures_the_same_calls() -> None:
    one, two, other = (Echo("local:ar") for _ in range(3))
    study(one)
    study(two)
    study(other, plan=Plan(draw=Draw(seed=1)))
    assert one.asked == two.asked
    assert set(one.asked) != set(other.asked)


def test_json_holds_every_number_and_no_text() -> None:
    found = study(Echo("local:ar", 0.4), answer=Answer('{"total":424242,"unit":"cm"}'))
    text = json.dumps(study_json(found), allow_nan=False)
    assert "424242" not in text
    read = json.loads(text)
    assert read["decisions"][0]["run"] == "local:ar"
    assert read["held_out"][0]["verdict"] == "kept"
    assert {one["run"] for one in read["measures"]} == {"recorded", "local:ar"}


def test_loop_times_weigh_groups_by_their_calls() -> None:
    calls = [call(at, loop=f"loop {at // 3}", step="act" if at % 3 else "plan") for at in range(240)]
    found = studied(Log(names=("l",), calls=tuple(calls)), [Echo("local:ar", 1.0)], True, Plan(), Store(), still)
    times = {one.run: one.seconds.value for one in found.loop_times}
    assert times["recorded"] == pytest.approx(3.0)
    assert times["local:ar"] == pytest.approx(3 * 1.1, abs=0.05)


def test_a_choice_and_a_call_without_answer_are_named_and_not_measured() -> None:
    calls = (
        *(call(at) for at in range(4)),
        call(4, kind="choice"),
        call(5, answer=None),
        replace(call(6), messages=()),
    )
    target = Echo("local:ar")
    found = studied(Log(names=("l",), calls=calls), [target], True, Plan(check=False), Store(), still)
    assert sum(found.unusable.values()) == 3
    assert not {"log.jsonl:4", "log.jsonl:5", "log.jsonl:6"} & set(target.asked)


def test_usage_that_is_not_known_has_no_cost() -> None:
    tables = {"recorded": Price(output=1.0), "local": Price(hour=1.0)}
    found = study(Echo("local:ar"), usage=Usage(), plan=Plan(prices=Prices(tables=tables)))
    measure = found.of("measure", "recorded")
    assert measure is not None
    assert measure.cost is None
    assert found.baseline == "local:ar"
