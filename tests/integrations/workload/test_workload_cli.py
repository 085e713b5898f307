"""`trimode workload` with the bundled checkpoint on recorded episodes, and with a server; nobody's words are tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from made_calls import SCHEMA, TOTAL, call, chat_line, written
from scripted import answer, held, keeping, playing, raw
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.integrations.cli import app as cli
from trimode.integrations.cli.demo import DATA
from trimode.integrations.workload.answering.local import LocalTarget
from trimode.integrations.workload.answering.remote import RemoteTarget
from trimode.integrations.workload.answering.targets import run_named
from trimode.integrations.workload.calls import Usage
from trimode.integrations.workload.logs.reading import read_logs
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.policies import Policy

EPISODES = Path(str(DATA / "episodes.jsonl.gz"))
"""Two episodes of star and two of gsm8k."""
EXACT = ("--run", "local:ar", "--run", "local:linear_spec:8")


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Engine.load
    monkeypatch.setattr(Engine, "load", lambda source=None, **more: load(source, **more) if source else reference)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["workload", *(str(word) for word in words)])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    """What the program prints where it cannot do what was asked; its exit code is 2."""
    monkeypatch.setattr(sys, "argv", ["trimode", "workload", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_episodes_of_star_and_gsm8k_give_a_report_whose_promises_hold(tmp_path: Path) -> None:
    store, policy, page = tmp_path / "results.jsonl", tmp_path / "policy.toml", tmp_path / "page.html"
    words = (EPISODES, *EXACT, "--sample", "3", "--quality", "0.05", "--store", store, "-o", policy, "--page", page)
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    measures = {(one["group"], one["run"]): one for one in found["measures"]}
    assert {group.partition(".")[0] for group, _ in measures} == {"star", "gsm8k"}
    for (group, name), one in measures.items():
        assert one["quality"] == measures[group, "local:ar"]["quality"], "exact modes write the same tokens"
        assert one["errors"] == {}
        assert one["last"][0] >= one["first"][0] > 0
        if group.endswith(("tool_call", "json")):
            assert one["valid"][0] == 1, (group, name)
    assert found["baseline"] == "local:ar"
    assert found["held_out"]
    assert all(one["verdict"] in ("kept", "not checked") for one in found["held_out"] if one["group"])
    assert "trimode workload" in page.read_text()
    modes = {settings.mode for settings in Policy.from_toml(policy).steps.values()}
    assert modes <= {"ar", "linear_spec"}
    assert modes

    again = run(*words)
    assert again.exit_code == 0, again.output
    assert f"{found['results']} of {found['results']} results were measured by an earlier run" in again.stdout
    assert "promises on held-out calls" in again.stdout

    checked = run("check", policy, EPISODES, "--store", store, "--json")
    assert checked.exit_code == 0, checked.output
    assert [one["verdict"] for one in json.loads(checked.stdout)] == [one["verdict"] for one in found["held_out"]]


def test_our_own_audit_is_a_log_and_exact_modes_say_what_it_says(reference: Engine, tmp_path: Path) -> None:
    with tm.session(reference, trace=f"file:{tmp_path / 'audit.jsonl'}", content=True), tm.using(mode="ar"):
        for number in range(3):
            said = [{"role": "user", "content": f"How long are {number} apples?"}]
            reference.generate(messages=said, schema=SCHEMA, max_tokens=24)
            reference.generate(messages=said, tools=[_weather()], tool_choice="required", max_tokens=48)
            reference.generate(messages=said, step="tool_call", tools=[_weather()], max_tokens=48)
    calls = read_logs([tmp_path / "audit.jsonl"]).calls
    assert [one.kind for one in calls] == ["json", "turn", "tool_call"] * 3
    target = LocalTarget(reference, "linear_spec")
    for one in calls:
        target.prepare(one)
        reply = target.answer(one)
        assert reply.answer == one.answer
        assert reply.usage.output == one.usage.output


def _weather() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    return {
        "name": "weather", "description": "The weather.", "parameters": {**parameters, "additionalProperties": False}
    }  # fmt: skip


def test_a_prompt_finds_in_the_cache_what_it_found_when_it_was_recorded(fresh: Engine) -> None:
    said = [{"role": "user", "content": "How long is it? " * 12}]
    target, cold = LocalTarget(fresh, "ar"), LocalTarget(fresh, "linear_spec")
    asked = call(0, messages=said, usage=Usage(input=1000, cached=500, output=1))
    target.prepare(asked)
    half = target.answer(asked).usage
    assert half.input is not None
    assert half.cached is not None
    assert 0 < half.cached <= half.input / 2
    assert cold.answer(asked).usage.cached == 0, "no mode finds the prefix of another"


def test_auto_begins_with_nothing_and_keeps_nothing(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path))
    target = LocalTarget(fresh, "auto")
    for number in range(3):
        target.answer(call(number))
    assert fresh.auto.learned.calls == 0
    assert not [path for path in tmp_path.rglob("*") if "auto" in path.name]


def test_tokens_of_another_tokenizer_are_an_error_of_the_call(reference: Engine) -> None:
    with pytest.raises(tm.TrimodeError, match="another tokenizer"):
        LocalTarget(reference, "ar").answer(call(0, messages=(), prompt_ids=(1, 2, 3), model="x"))


def test_a_server_is_a_target() -> None:
    with playing(*held(keeping(lambda _: TOTAL))) as server:
        target = RemoteTarget(Engine.remote(server.url, "openai"), run_named(f"there={server.url}:openai"))
        reply = target.answer(call(0))
        assert (reply.answer.text, reply.usage.input, reply.usage.output, reply.usage.passes) == (TOTAL, 7, 3, None)
        assert (target.name, target.engine, target.settings) == ("there", "there", None)
        asked = server.calls[-1].body
        assert asked["messages"] == [{"role": "user", "content": "How long is number 0?"}]
        assert asked["max_completion_tokens"] == 20


def test_a_log_is_measured_at_a_server_and_only_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(tmp_path / "log.jsonl", *(chat_line(session=f"s{at}", seconds=30) for at in range(60)))
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\n[recorded]\ninput = 3\noutput = 15\n[there]\ninput = 1\noutput = 2\n')
    policy = tmp_path / "policy.toml"
    with playing(*held(keeping(lambda _: TOTAL))) as server:
        words = ("--run", f"there={server.url}:openai", "--run", "recorded", "--prices", prices, "-o", policy, "--json")
        result = run(log, *words, "--concurrency", "4", "--quality", "0.8")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        asked = len(server.calls)
    (decision,) = found["decisions"]
    assert (found["by"], found["baseline"], decision["run"]) == ("cost", "recorded", "there")
    assert decision["against"][0] == pytest.approx((7 * 1 + 3 * 2) / (40 * 3 + 9 * 15), rel=1e-6)
    assert [one["verdict"] for one in found["held_out"]] == ["kept"]
    assert asked == 60 + 1, "each call once, and one probe of the constraint"
    assert dict(Policy.from_toml(policy).steps) == {}
    assert "say where it is: --run there=URL:KIND" in fails(capsys, monkeypatch, "check", policy, log)


def test_a_server_that_fails_is_no_gain(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", *(chat_line(session=f"s{at}", seconds=30) for at in range(6)))
    with playing(*held(raw(answer("{")[:20]))) as server:
        result = run(log, "--run", f"there={server.url}:openai", "--run", "recorded", "--json", "--no-check")
    assert result.exit_code == 0, result.output
    (decision,) = json.loads(result.stdout)["decisions"]
    assert decision["stays"]
    assert "no run answered it" in decision["reason"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--run", "local:fast"), "fast"),
        (("--run", "recorded"), "no --run"),
        (("--run", "local:ar", "--baseline", "gpu"), "--baseline gpu"),
        (("--run", "local:ar", "--by", "luck"), "--by luck"),
        (("--run", "local:ar", "--quality", "high"), "--quality high"),
        (("--run", "local:ar", "--page", "nowhere/page.html"), "no directory nowhere"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    error = fails(capsys, monkeypatch, EPISODES, *words)
    assert says in error
    assert error.count("\n") == 1


def test_a_broken_log_names_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(tmp_path / "log.jsonl", chat_line(), "{torn")
    assert "log.jsonl:2: not JSON" in fails(capsys, monkeypatch, log, "--run", "local:ar")
