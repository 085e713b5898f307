"""Our own server as a server elsewhere: what an engine in the process gives, over HTTP, token for token."""

from __future__ import annotations

import json
import runpy
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import ASK, TOOL, listening
from typer.testing import CliRunner

import trimode as tm
from trimode.integrations.cli.app import app as command_line
from trimode.policy.audit import AuditFile, read_audit, records, verify
from trimode.policy.remote import Retry
from trimode.policy.replay import replay

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "07_elsewhere.py"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["apples", "boxes"]}, "count": {"type": "integer", "minimum": 3, "maximum": 120}},
    "required": ["name", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def here() -> Generator[tm.Engine]:
    with tm.Engine.load() as engine:
        yield engine


@pytest.fixture(scope="module")
def url(here: tm.Engine) -> Generator[str]:
    with listening(here) as found:
        yield found


@pytest.fixture(scope="module")
def there(url: str) -> Generator[tm.Engine]:
    with tm.Engine.remote(url, "trimode", retry=Retry(attempts=1)) as engine:
        yield engine


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "lookup_spec"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_seed_gives_the_same_text_here_and_there(
    here: tm.Engine, there: tm.Engine, mode: Any, temperature: float
) -> None:
    given: dict[str, Any] = {"messages": ASK, "mode": mode, "temperature": temperature, "seed": 7, "exact": True}
    ours, theirs = here.generate(max_tokens=20, **given), there.generate(max_tokens=20, **given)
    assert theirs.text == ours.text
    assert theirs.finish_reason == ours.finish_reason
    assert theirs.remote is not None
    assert theirs.remote.exactness == "same tokens"
    assert theirs.stats.output_tokens == ours.stats.output_tokens
    if mode != "lookup_spec":  # which copies from earlier outputs that the server has and this engine has not
        assert theirs.remote.reported.forward_passes == ours.stats.forward_passes


def test_a_schema_there(here: tm.Engine, there: tm.Engine) -> None:
    ours, theirs = (engine.generate(messages=ASK, schema=SCHEMA, seed=3) for engine in (here, there))
    assert theirs.value == ours.value
    assert (theirs.guarantee, theirs.valid) == ("grammar", True)


def test_tools_and_turns_there(there: tm.Engine) -> None:
    call = there.generate(messages=ASK, tools=[TOOL], step="tool_call", max_tokens=80).value
    assert call.name == "calculator"
    result = there.generate(messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=80)
    assert [one.name for one in result.calls][:1] == ["calculator"]
    assert result.valid


def test_a_choice_is_written_there(there: tm.Engine) -> None:
    result = there.generate(messages=ASK, step="choice", schema={"enum": ["yes", "no"]})
    assert result.value in ("yes", "no")
    assert any("not scored" in note for note in result.notes)
    assert result.choice is None


def test_streams_there(there: tm.Engine) -> None:
    events = list(there.stream(messages=ASK, max_tokens=12))
    result = events[-1].result
    assert result is not None
    assert "".join(event.text for event in events) == result.text


def test_a_session_there_has_records_that_verify(there: tm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with tm.session(there, trace=f"file:{path}", content=True, budget=tm.Budget(tokens=120)) as session:
        there.generate(messages=ASK, max_tokens=8)
        there.generate(messages=ASK, schema=SCHEMA, max_tokens=60)
    assert verify(path) == []
    one, other = records(read_audit(path))
    assert one.remote is not None
    assert other.remote is not None
    assert one.remote.seeds == "replay"
    assert session.spent.tokens == sum(
        found.remote.reported.output_tokens or 0 for found in (one, other) if found.remote is not None
    )


def test_records_are_asked_again_by_seed_or_validated_again(there: tm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with tm.session(there, trace=f"file:{path}", content=True):
        there.generate(messages=ASK, max_tokens=8, temperature=0.8, seed=5)
        there.generate(messages=ASK, schema=SCHEMA)
        there.generate(messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=80)
        there.generate(messages=ASK, step="choice", schema={"enum": ["yes", "no"]})
    found = records(read_audit(path))
    assert [replay(record, there).outcome for record in found] == ["same"] * 4
    assert [replay(record, None).outcome for record in found] == ["impossible", "valid", "valid", "valid"]
    other = replace(found[1], text='{"name":"pears","count":5}')
    assert replay(other, None).outcome == "different"
    assert replay(other, there).outcome == "different"
    assert replay(found[0].redacted(), there).outcome == "impossible"


def test_a_changed_answer_does_not_verify(there: tm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with tm.session(there, trace=f"file:{path}", content=True):
        text = there.generate(messages=ASK, max_tokens=4).text
    assert text
    whole = path.read_text()
    marked = '"text":'
    at = whole.rindex(marked) + len(marked)
    path.write_text(whole[: at + 1] + "X" + whole[at + 1 :])
    assert {problem.field for problem in verify(path)} >= {"output_sha256"}


def test_what_the_server_refuses_is_refused_by_name(there: tm.Engine) -> None:
    with pytest.raises(tm.RequestError, match="prompt_ids"):
        there.generate(prompt_ids=[1, 2, 3])
    passes = tm.Budget(passes=5)
    with tm.session(there, budget=passes), pytest.raises(tm.RequestError, match="do not report forward passes"):
        there.generate(messages=ASK)


def test_scores_there_are_those_of_here(here: tm.Engine, there: tm.Engine) -> None:
    options = ["yes", "no", "perhaps"]
    found = there.choice(options, "Hello")
    tokens = [here.tokenize(option) for option in options]
    scored = [here.token_logprobs(here.tokenize("Hello"), ids) for ids in tokens]
    assert found.logprobs == pytest.approx([sum(one.logprobs) for one in scored], abs=1e-5)
    question = tm.DecisionQuestion.choice("Which?", options)
    (decided,), (ours,) = (engine.decide("Hello.", [question]).answers for engine in (there, here))
    assert decided.logprobs == pytest.approx(ours.logprobs, abs=1e-5)


def test_the_example_runs_here_and_there_with_one_audit(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMODE_URL", url)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    path = tmp_path / "agent.jsonl"
    assert verify(path) == []
    found = records(read_audit(path))
    assert [(one.step, one.remote is not None) for one in found] == [
        ("act", False), ("reply", False), ("act", True), ("reply", True),
    ]  # fmt: skip
    assert found[0].text == found[2].text
    assert found[1].text == found[3].text


def test_auto_learns_there(there: tm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.policy.calls.calibrate.cache_folder", lambda: tmp_path)
    with tm.session(there, policy="auto"):
        reasons = [there.generate(messages=ASK, max_tokens=4).plan.reason for _ in range(9)]
    assert all("policy 'auto'" in reason for reason in reasons)
    assert there.auto.evidence  # type: ignore[attr-defined]  # pyright: ignore


@pytest.fixture(scope="module")
def trail(there: tm.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calls of the server: one with a seed, one with a schema."""
    path = tmp_path_factory.mktemp("trail") / "calls.jsonl"
    with tm.session(there, trace=f"file:{path}", content=True):
        there.generate(messages=ASK, temperature=1.0, seed=5, max_tokens=12)
        there.generate(messages=ASK, schema=SCHEMA, max_tokens=400)
        there.choice(["yes", "no"], messages=ASK)
    return path


def replayed(*words: str | Path) -> tuple[int, list[str], str]:
    """The command's exit code, the outcome of each call, and its output."""
    ran = CliRunner().invoke(command_line, ["audit", "replay", *map(str, words), "--json"])
    return ran.exit_code, [one["outcome"] for one in json.loads(ran.output)] if ran.exit_code < 2 else [], ran.output


def test_the_command_line_asks_a_server_again(url: str, trail: Path) -> None:
    assert replayed(trail)[:2] == (0, ["impossible", "valid", "valid"])
    assert replayed(trail, "--server", url)[:2] == (0, ["same", "same", "same"])


def test_the_command_line_finds_another_text(url: str, trail: Path, tmp_path: Path) -> None:
    edited = tmp_path / "calls.jsonl"
    (first, *_) = records(read_audit(trail))
    trail_of = AuditFile(edited, content=True)
    trail_of.write(replace(first, text="something else"))
    assert replayed(edited, "--server", url)[:2] == (1, ["different"])


def test_a_server_without_promised_seeds_is_not_asked(trail: Path, tmp_path: Path) -> None:
    edited = tmp_path / "calls.jsonl"
    (_, second, _) = records(read_audit(trail))
    assert second.remote is not None
    AuditFile(edited, content=True).write(replace(second, remote=replace(second.remote, seeds="best effort")))
    assert replayed(edited, "--server", "http://127.0.0.1:9")[:2] == (0, ["valid"])


def test_a_server_that_has_nothing_to_be_asked(url: str, trail: Path, here: tm.Engine, tmp_path: Path) -> None:
    local = tmp_path / "calls.jsonl"
    with tm.session(here, trace=f"file:{local}", content=True):
        here.generate("Hello", max_tokens=2)
    for words in ((local, "--server", url), (trail, "--server", url, "--policy", "auto")):
        ran = CliRunner().invoke(command_line, ["audit", "replay", *map(str, words)])
        assert "nothing to be asked" in str(ran.exception)
