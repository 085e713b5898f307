"""What commands print where: text and numbers apart, tables that fit, plain lines in pipes, a demo whose tools run."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from loaded import SHORT
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.engine.result import Mode
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.cli import app as cli
from trimode.integrations.cli.console import UNBROKEN, Output
from trimode.integrations.cli.demo import DATA, episodes, loop, policy_for
from trimode.integrations.cli.demo_tools import LIMIT, LIVE_TOOLS, calculator
from trimode.policy.audit import AuditFile, CallRecord
from trimode.policy.calls.engine import Engine
from trimode.policy.selection import STEP_KINDS, StepContext

EPISODES = Path(str(DATA / "episodes.jsonl.gz"))
ANSI = re.compile("\x1b")


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Engine.load
    monkeypatch.setattr(Engine, "load", lambda source=None, **more: load(source, **more) if source else reference)
    monkeypatch.delenv("COLUMNS", raising=False)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_text_goes_to_stdout_and_numbers_to_stderr(reference: Engine) -> None:
    words = ("generate", "How long is it?", "--max-tokens", "12")
    found = run(*words)
    whole = reference.generate(messages=[{"role": "user", "content": "How long is it?"}], max_tokens=12)
    assert found.stdout == f"{whole.text}\n"
    assert f"output_tokens {whole.stats.output_tokens}" in found.stderr
    assert run(*words, "--stream").stdout == found.stdout
    as_json = run(*words, "--json")
    assert json.loads(as_json.stdout)["text"] == whole.text
    assert as_json.stderr == ""


def test_long_text_is_not_broken(monkeypatch: pytest.MonkeyPatch, reference: Engine) -> None:
    """Not even where COLUMNS says how wide tables are: the text is the model's."""
    monkeypatch.setenv("COLUMNS", "20")
    found = run("generate", "Tell me of the table.", "--max-tokens", "60", "--temperature", "1", "--seed", "3")
    whole = reference.generate(
        messages=[{"role": "user", "content": "Tell me of the table."}], max_tokens=60, temperature=1.0, seed=3
    )
    assert len(whole.text) > 40
    assert found.stdout == f"{whole.text}\n"


def test_generate_takes_step_guarantee_and_chat(tmp_path: Path, reference: Engine) -> None:
    schema = tmp_path / "schema.json"
    letters = {"type": "string", "pattern": "^[a-z]$"}
    unique = {"type": "array", "items": letters, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    schema.write_text(json.dumps(unique), encoding="utf-8-sig")
    words = ("generate", "A letter", "--schema", schema, "--max-tokens", "20")
    checked = run(*words, "--guarantee", "checked")
    assert checked.exit_code == 0
    assert len(set(json.loads(checked.stdout))) == 2
    assert "note: 'uniqueItems' at /uniqueItems is not in the grammar" in checked.stderr
    assert isinstance(run(*words).exception, tm.UnsupportedKeyword)
    plan = json.loads(run("generate", "Go", "--step", "plan", "--max-tokens", "3", "--json").stdout)
    assert "plan steps" in plan["reason"]
    schema.write_text(json.dumps({"enum": ["yes", "no"]}))
    chosen = run("generate", "Is it?", "--step", "choice", "--schema", schema)
    assert chosen.stdout in ("yes\n", "no\n")
    raw = run("generate", "The table is", "--no-chat", "--max-tokens", "4")
    assert raw.stdout == f"{reference.generate('The table is', max_tokens=4).text}\n"


def test_version_is_an_option_of_the_app() -> None:
    found = run("--version")
    assert (found.exit_code, found.stdout) == (0, f"trimode {tm.__version__}\n")
    assert "--version" in run("--help").output


def test_piped_output_is_plain(tmp_path: Path, recorded: Any) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, content=True)
    names = ["act", "a step with a long name " * 9, "[bold]odd[/]"]
    for name in names:
        file.write(recorded("linear_spec", schema=True, step=name))
    shown = run("audit", "show", path).stdout
    header, *rows = shown.rstrip("\n").split("\n")
    assert header.split()[:4] == ["#", "step", "kind", "mode"]
    assert [row.split()[0] for row in rows[:3]] == ["1", "2", "3"], "a call is a line"
    assert all(" ".join(name.split()) in " ".join(row.split()) for name, row in zip(names, rows, strict=False))
    assert all(line == line.rstrip() for line in shown.split("\n"))
    assert not ANSI.search(shown)


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_tables_honour_columns(tmp_path: Path, recorded: Any, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    record: CallRecord = recorded("linear_spec", schema=True, step="a_step_with_a_long_name")
    AuditFile(path, content=True).write(record)
    monkeypatch.setenv("COLUMNS", str(columns))
    found = run("audit", "show", path)
    table = found.stdout.split("decoded by")[0].rstrip("\n").split("\n")
    assert max(map(cell_len, table)) <= columns
    assert record.counts is not None
    assert str(record.counts.output_tokens) in found.stdout, "numbers are whole"
    header = table[0].split()
    left_out = re.findall(r"no place for (.*): widen", found.stderr)
    missing = left_out[0].split(", ") if left_out else []
    every = [
        "#",
        "step",
        "kind",
        "mode",
        "tokens",
        "passes",
        "TPF",
        "accepted",
        "forced",
        "repaired",
        "schema",
        "finish",
        "reason",
    ]
    assert sorted([*header, *missing]) == sorted(every), "what is not shown is named"
    assert bool(missing) == (columns < 140)


def test_a_terminal_gets_its_width_and_a_pipe_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = Output(file=StringIO())
    assert piped.width == UNBROKEN
    long = "word " * 60
    piped.print(long)
    view = Table("a", "b")
    view.add_row(Text(long), "[x]")
    piped.print(view)
    text = piped.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith(f"{long.rstrip()}\n")
    assert long.rstrip() in text.split("\n", 1)[1]
    monkeypatch.setenv("COLUMNS", "33")
    assert piped.width == 33
    piped.print("x" * 50)
    assert "x" * 50 in piped.file.getvalue(), "only tables are as wide as COLUMNS"  # type: ignore[attr-defined]
    monkeypatch.setenv("COLUMNS", "wide")
    assert piped.width == UNBROKEN
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with open(slave, "w", closefd=False) as terminal:
        assert Output(file=terminal).width == 44
    os.close(master)
    os.close(slave)


def test_the_demo_says_what_is_recorded_and_what_is_live(tmp_path: Path) -> None:
    found = run("demo", "--episodes", "1", "--audit", tmp_path / "a.jsonl").stdout
    assert found.startswith("live: the model writes every plan, tool_call, json and prose step now; tool results come ")
    assert "recorded: user turns, and the order of steps" in found
    assert "tool (recorded)" in found
    assert "user (recorded)" in found
    assert "run now" not in found


@pytest.mark.parametrize("modes", [("ar",), ("diffusion",), ("ar", "linear_spec")])
def test_weights_that_lack_modes_play_the_demo_in_their_first(modes: tuple[Mode, ...]) -> None:
    policy = policy_for(modes)
    plans = [policy.resolve(StepContext(kind=kind, name="x")) for kind in STEP_KINDS if kind not in ("choice", "turn")]
    assert {plan.mode for plan in plans} == {modes[0]}
    assert policy.name == f"demo-{modes[0]}"


def test_weights_with_every_mode_show_each_kind_in_its_own() -> None:
    policy = policy_for(get_args(Mode))
    plans = {kind: policy.resolve(StepContext(kind=kind, name="x")).mode for kind in ("plan", "json", "prose")}
    assert plans == {"plan": "ar", "json": "linear_spec", "prose": "diffusion"}


def test_live_tools_really_run(tmp_path: Path) -> None:
    found = run("demo", "--live", "--episodes", "1", "--audit", tmp_path / "a.jsonl")
    assert found.exit_code == 0, found.output
    assert "tools really run" in found.stdout
    assert "tool (recorded)" not in found.stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in found.stdout.split("\n")]
    calls = [json.loads(row[-1]) for row in rows if row[0] == "tool_call" and row[-1].startswith("{")]
    heard = [json.loads(row[-1]) for row in rows if row[0] == "tool (run now)"]
    assert len(calls) == len(heard) > 0
    assert heard == [heard_of(call["arguments"]) for call in calls]


def heard_of(arguments: dict[str, str]) -> dict[str, object]:
    try:
        return {"result": calculator(**arguments)}
    except (ValueError, ZeroDivisionError) as error:
        return {"error": str(error)}


def test_live_episodes_are_those_whose_tools_run(reference: Engine) -> None:
    chosen = episodes(99, live=True)
    assert {tool["name"] for episode in chosen for tool in episode.tools} == set(LIVE_TOOLS)
    assert len(chosen) < len(episodes(99))
    with tm.session(reference):
        names = [str(cells[0]) for cells in loop(chosen[0], live=True)]
    assert "tool (run now)" in names


@pytest.mark.parametrize(
    ("expression", "value"),
    [("500+800", 1300), ("1300*.1", 130), ("-(2 - 5) * 4", 12), ("7 / 2", 3.5), ("7 // 2 % 2", 1), (" +3 ", 3)],
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression", ["", "2 +", "x", "__import__('os')", "2 ** 99", "True", "'a' * 9", f"{LIMIT} * 2", "1e999", "(" * 300]
)
def test_the_calculator_refuses_what_is_no_arithmetic(expression: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(expression)[:20])):
        calculator(expression)


def test_episodes_end_at_line_feeds_alone_and_may_begin_with_a_bom(tmp_path: Path) -> None:
    record = {"id": "a", "source": "s", "text": "one\u2028two\x85three"}
    line = json.dumps(record, ensure_ascii=False)
    data = f"\ufeff{line}\r\n{line}\n".encode()
    for path, written in ((tmp_path / "e.jsonl", data), (tmp_path / "e.jsonl.gz", gzip.compress(data))):
        path.write_bytes(written)
        found = [episode.messages[0]["content"] for episode in read_episodes(path)]
        assert found == [record["text"]] * 2


def test_a_schema_file_may_begin_with_a_bom(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SHORT), encoding="utf-8-sig")
    found = run("generate", "How long is it?", "--schema", schema, "--max-tokens", "24")
    assert set(json.loads(found.stdout)) == {"low", "unit"}
