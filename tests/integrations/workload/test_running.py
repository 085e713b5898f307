"""Calls under targets: by turns, at the same time, once each, and again after an end in the middle."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_calls import Echo, call

from trimode.integrations.workload.answering.portable import portable
from trimode.integrations.workload.answering.runner import Meter, Ran, Runner, recorded_reading
from trimode.integrations.workload.answering.targets import Reply, run_named, runs_named
from trimode.integrations.workload.calls import Answer, RecordedCall
from trimode.integrations.workload.groups import family, grouped
from trimode.integrations.workload.readings import Reading, Store
from trimode.integrations.workload.refusals import PriceRefused, RunRefused, StoreRefused
from trimode.integrations.workload.sampling import Draw, drawn
from trimode.integrations.workload.scoring.intervals import Interval
from trimode.integrations.workload.scoring.prices import Price, Prices, read_prices
from trimode.integrations.workload.show import words

CALLS = [call(at) for at in range(6)]


def test_every_target_answers_every_call_and_another_one_begins_each_time() -> None:
    order = list[tuple[str, str]]()

    class Noted(Echo):
        def answer(self, call: RecordedCall) -> Reply:
            order.append((call.id, self.name))
            return super().answer(call)

    ran = Runner([Noted("a:1"), Noted("b:1"), Noted("c:1")], Store()).run(CALLS)
    assert [(one.call, one.run) for one in ran.readings] == [(c.id, f"{n}:1") for c in CALLS for n in "abc"]
    firsts = [next(name for id, name in order if id == one.id) for one in CALLS]
    assert firsts == ["a:1", "b:1", "c:1"] * 2
    assert [id for id, _ in order] == [one.id for one in CALLS for _ in range(3)], "a call ends before the next begins"


def test_an_error_is_a_result_of_quality_0() -> None:
    ran = Runner([Echo("a:1", say=lambda one: None if one.id.endswith("3") else one.answer)], Store()).run(CALLS)
    failed = [one for one in ran.readings if one.error]
    assert [(one.call, one.error, one.score, one.last) for one in failed] == [
        ("log.jsonl:3", "RequestError", 0.0, None)
    ]


def test_concurrency_is_bounded_and_keeps_the_order() -> None:
    inside, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(3, timeout=30)

    class Waits(Echo):
        def answer(self, call: RecordedCall) -> Reply:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            together.wait()
            with lock:
                inside[0] -= 1
            return super().answer(call)

    ran = Runner([Waits("a:1")], Store(), concurrency=3).run(CALLS)
    assert [one.call for one in ran.readings] == [one.id for one in CALLS]
    assert most[0] == 3


def test_a_meter_divides_time_among_the_calls_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 6.0, 7.0, 9.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = Meter()
    one = meter.enter()  # 0 s: alone for 2 s
    other = meter.enter()  # 2 s: two calls for 4 s
    assert meter.leave(one) == 2 + 4 / 2
    assert meter.leave(other) == 4 / 2 + 1
    third = meter.enter()  # 9 s: nobody was there for 2 s
    assert meter.leave(third) == 1


def ran_with(target: Echo, folder: Path, calls: Sequence[RecordedCall]) -> Ran:
    with Store(folder / "results.jsonl") as store:
        return Runner([target], store).run(calls)


def test_results_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    before, again = ran_with(Echo("a:1"), tmp_path, CALLS[:4]), Echo("a:1")
    ran = ran_with(again, tmp_path, CALLS)
    assert again.asked == [one.id for one in CALLS[4:]]
    assert (ran.earlier, ran.readings[:4]) == (4, before.readings)


def test_results_of_other_weights_questions_or_runs_are_not_taken(tmp_path: Path) -> None:
    ran_with(Echo("a:1"), tmp_path, CALLS[:1])
    other = Echo("a:1")
    other.identity = "2"
    changed = [call(0, settings={"temperature": 1.0})]
    for target, calls in ((other, CALLS[:1]), (Echo("b:1"), CALLS[:1]), (Echo("a:1"), changed)):
        ran_with(target, tmp_path, calls)
        assert target.asked == ["log.jsonl:0"]


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    ran_with(Echo("a:1"), tmp_path, CALLS[:3])
    path.write_bytes(path.read_bytes()[:-9])
    again = Echo("a:1")
    with Store(path) as store:
        assert store.torn
        Runner([again], store).run(CALLS[:3])
    assert again.asked == ["log.jsonl:2"]
    with Store(path) as store:
        assert len(store) == 3


@pytest.mark.parametrize("text", ["hello\n", "{}\n", '{"schema_version":"2"}\n', "[]\n"])
def test_a_file_of_something_else_is_not_written_to(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(StoreRefused):
        Store(path)
    assert path.read_text() == text


def test_a_result_that_is_none_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Store(path) as store:
        store.add(Reading(call="1", sha256="s", run="a:1"))
    with path.open("a") as file:
        file.write(json.dumps({"call": "2"}) + "\n")
    with pytest.raises(StoreRefused, match=r"results\.jsonl:3: "):
        Store(path)


def test_no_text_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    secret = call(
        0, messages=({"role": "user", "content": "xyzzy"},), answer=Answer("plugh"), schema=None, kind="prose"
    )
    ran_with(Echo("a:1"), tmp_path, [secret])
    assert not {"xyzzy", "plugh"} & set(path.read_text().replace('"', " ").split())


def test_groups_are_steps_and_else_families() -> None:
    def said(system: str, **more: Any) -> RecordedCall:
        return call(0, step="", messages=({"role": "system", "content": system},), **more)

    today, later = said("It is 2026-11-29. Book 3 rooms."), said("It is 2027-01-02. Book 14 rooms.")
    other, held = (
        said("It is 2026-11-29. Sell rooms."),
        said("It is 2026-11-29. Book 3 rooms.", schema={"type": "array"}),
    )
    assert family(today) == family(later)
    assert len({family(one) for one in (today, other, held)}) == 3
    assert [group.name for group in grouped([call(0), call(1), call(2, step="answer")])] == ["answer", "measure"]


calls = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y"])), min_size=1, max_size=40)


@given(calls, st.integers(0, 3), st.floats(0, 1))
def test_no_loop_is_both_measured_and_held_out(made: list[tuple[str, str]], seed: int, held_out: float) -> None:
    log = [call(at, loop=loop, step=step) for at, (loop, step) in enumerate(made)]
    draw = Draw(most=5, held_out=held_out, seed=seed)
    found = drawn(grouped(log), draw)
    loops = [{one.loop for each in part.values() for one in each} for part in (found.measured, found.held_out)]
    assert not loops[0] & loops[1]
    assert loops[0], "something is always measured"
    assert all(len(each) <= 5 for part in (found.measured, found.held_out) for each in part.values())
    again = drawn(grouped(list(reversed(log))), draw)
    assert found == again, "the order of the log says nothing"


def test_prices_of_tokens_and_of_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('currency = "USD"\n[recorded]\ninput = 1\ncached_input = 0.5\noutput = 10\n[local]\nhour = 3.6\n')
    prices = read_prices(path)
    usage = call(0).usage
    assert prices.of("recorded") == Price(input=1.0, cached_input=0.5, output=10.0)
    assert Price(input=1.0, cached_input=0.5, output=10.0).of(usage, None) == (100 * 1 + 20 * 10) / 1e6
    machine = prices.of("local:linear_spec")
    assert machine is not None
    assert machine.of(usage, 2.0) == pytest.approx(0.002)
    assert Prices().of("local") is None
    assert Price(output=1.0).of(call(0, usage=type(usage)()).usage, 1.0) is None, "unknown tokens have no price"


@pytest.mark.parametrize(
    "text",
    ["[a]\n", "[a]\nhour = 1\ninput = 2\n", "[a]\nhour = -1\n", "[a]\nminute = 1\n", "a = 1\n", "currency = 1\n", "["],
)
def test_price_tables_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(PriceRefused, match=r"prices\.toml"):
        read_prices(path)


def test_runs_by_name() -> None:
    gpu = run_named("gpu=http://127.0.0.1:8000/v1:vllm")
    assert (gpu.name, gpu.url, gpu.kind) == ("gpu", "http://127.0.0.1:8000/v1", "vllm")
    mtp = run_named("gpu=https://h/v1:sglang/linear_spec")
    assert (mtp.name, mtp.url, mtp.kind, mtp.mode) == ("gpu:linear_spec", "https://h/v1", "sglang", "linear_spec")
    assert run_named("trt=http://h:8000:tensorrt-llm").kind == "tensorrt-llm"
    assert run_named("local:linear_spec:8").mode == "linear_spec:8"


@pytest.mark.parametrize(
    "given",
    [[], ["recorded"], ["local"], ["local:"], ["gpu=ftp://h:vllm"], ["gpu=http://h"], ["gpu=http://h:8000"],
     ["local:ar", "local:ar"], ["x"],
     ["local=http://h/v1:vllm"]],
)  # fmt: skip
def test_runs_that_name_nothing(given: list[str]) -> None:
    with pytest.raises(RunRefused, match="--run"):
        runs_named(given)


def test_the_recorded_engine_is_measured_by_its_log() -> None:
    found = recorded_reading(call(0))
    assert (found.run, found.score, found.valid, found.last, found.share) == ("recorded", 1.0, True, 1.0, 1.0)


def test_messages_of_episodes_become_those_of_any_server() -> None:
    asked = '{"name":"weather","arguments":{"city":"Rome"}}'
    found = portable(
        [
            {"role": "user", "content": "Rome?"},
            {"role": "assistant", "kind": "plan", "content": "next: call weather"},
            {"role": "assistant", "kind": "tool_call", "content": asked},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "kind": "json", "content": "{}", "schema": {"type": "object"}},
            {"role": "tool", "content": "of nobody"},
        ]
    )
    assert [message["role"] for message in found] == ["user", "assistant", "assistant", "tool", "assistant", "user"]
    assert not [message for message in found if {"kind", "schema"} & set(message)]
    (made,) = found[2]["tool_calls"]
    assert made["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert found[3]["tool_call_id"] == made["id"]
    plain = ({"role": "user", "content": "Hello", "name": "ann"},)
    assert portable(plain) == plain


def test_one_loop_gives_no_limits_in_words() -> None:
    one = Interval(0.5, 0.0, math.inf, 3)
    assert words.seconds(one) == "0.500 (one loop: no limits)"
    assert words.change(one) == "-50 % (one loop: no limits)"
    assert words.money(Interval(0.002, 0.001, 0.004, 3), "USD") == "2 (1 to 4) USD"
    assert [words.many(count, "call") for count in (1, 2000)] == ["1 call", "2,000 calls"]
