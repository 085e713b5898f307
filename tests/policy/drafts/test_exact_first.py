"""`exact_first` wherever a setting may be said: calls, steps, files; in records and replay; and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import trimode as tm
from trimode.engine.options import LinearSpecOptions
from trimode.integrations.cli.app import app
from trimode.policy.audit import CallRecord, read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import PolicyError
from trimode.policy.replay import replay
from trimode.policy.replay.decode_again import request_of
from trimode.policy.selection import Policy, Settings

ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture
def recorded(reference: Engine, tmp_path: Path) -> list[CallRecord]:
    """The weights' own, then true and false, said in a call and in a file."""
    path = tmp_path / "audit.jsonl"
    given: list[dict[str, Any]] = [{}, {"exact_first": True}, {"exact_first": False}]
    with tm.session(reference, policy=Policy(), trace=f"file:{path}", content=True):
        for said in given:
            reference.generate(messages=ASK, mode="linear_spec", block_length=8, max_tokens=24, **said)
    file = tmp_path / "trimode.toml"
    file.write_text('[kinds.prose]\nmode = "linear_spec"\nexact_first = false\n')
    with tm.session(reference, policy=Policy.from_toml(file), trace=f"file:{path}", content=True):
        reference.generate(messages=ASK, step="prose", max_tokens=24)
    return list(records(read_audit(path)))


def test_records_hold_what_ran_and_replays_follow_it(recorded: list[CallRecord], reference: Engine) -> None:
    assert [record.options["exact_first"] for record in recorded] == [True, True, False, False]
    assert [replay(record, reference).outcome for record in recorded] == ["same"] * 4
    assert len({record.token_ids for record in recorded}) == 1
    passes = [record.counts.forward_passes for record in recorded[:3] if record.counts]
    assert passes[0] == passes[1] < passes[2]


def test_older_records_replay_as_they_were_decoded(recorded: list[CallRecord], reference: Engine) -> None:
    record = recorded[2]
    old = replace(record, options={name: word for name, word in record.options.items() if name != "exact_first"})
    assert request_of(old, reference).options == LinearSpecOptions(block_length=8, exact_first=False)
    assert replay(old, reference).outcome == "same"


def test_it_is_a_setting_of_linear_spec_alone(reference: Engine) -> None:
    with pytest.raises(PolicyError, match="exact_first='yes': expected true or false"):
        reference.generate(messages=ASK, mode="linear_spec", exact_first="yes")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="exact_first is no setting of mode 'quadratic_spec'"):
        Policy(name="x", kinds={"json": Settings(mode="quadratic_spec", exact_first=True)})
    noted = reference.generate(messages=ASK, mode="ar", exact_first=True, max_tokens=3)
    assert "exact_first=True has no part in mode 'ar'" in noted.notes
    chosen = reference.generate(messages=ASK, exact_first=False, schema={"enum": ["a", "b"]}, step="choice")
    assert any(note.startswith("exact_first=False has no part in a choice") for note in chosen.notes)


def test_eval_takes_it(tmp_path: Path) -> None:
    episodes = Path(tm.__file__).parent / "integrations" / "cli" / "data" / "episodes.jsonl.gz"
    found = dict[str, float]()
    for option in ("--exact-first", "--no-exact-first"):
        out = tmp_path / "rows.json"
        command = ["eval", str(episodes), "--modes", "linear_spec", "--limit", "1", option, "--json", str(out)]
        assert CliRunner().invoke(app, command).exit_code == 0
        rows = json.loads(out.read_text())
        found[option] = sum(row["forward_passes"] for row in rows)
    assert found["--exact-first"] < found["--no-exact-first"]
