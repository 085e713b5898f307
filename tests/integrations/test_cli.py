"""The command line: what it writes, what its exit codes mean, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from loaded import SHORT
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.integrations.cli import app as cli
from trimode.integrations.cli.demo import DATA
from trimode.policy.calls.engine import Engine

EPISODES = Path(str(DATA / "episodes.jsonl.gz"))
ROW = {"source", "mode", "step", "n", "tokens", "forward_passes", "tpf", "tokens_per_s", "valid", "exact_name",
       "exact_args", "agree_ar", "closed"}  # fmt: skip


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that ask for the bundled checkpoint get the one in memory."""
    load = Engine.load
    monkeypatch.setattr(Engine, "load", lambda source=None, **more: load(source, **more) if source else reference)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    """The one line that the program prints where it cannot do what was asked."""
    monkeypatch.setattr(sys, "argv", ["trimode", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["generate"],
        ["eval"],
        ["bench"],
        ["export"],
        ["audit"],
        ["audit", "show"],
        ["audit", "verify"],
        ["audit", "report"],
        ["audit", "push"],
        ["schema"],
        ["schema", "check"],
        ["policy", "show"],
        ["policy", "explain"],
        ["policy", "tune"],
        ["policy", "compare"],
        ["doctor"],
    ],
)
def test_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


@dataclass
class Demo:
    file: Path
    output: str


@pytest.fixture(scope="module")
def demo(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    file = tmp_path_factory.mktemp("demo") / "audit.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "load", lambda _=None: reference)
        result = run("demo", "--episodes", "1", "--audit", file)
    assert result.exit_code == 0, result.output
    return Demo(file, result.output)


def test_demo_plays_each_kind_in_its_mode_and_verifies(demo: Demo) -> None:
    records = [json.loads(line)["record"] for line in demo.file.read_text().rstrip("\n").split("\n")]
    assert {(record["kind"], record["options"]["mode"]) for record in records} == {
        ("plan", "ar"), ("tool_call", "linear_spec"), ("json", "linear_spec"), ("prose", "diffusion"),
    }  # fmt: skip
    assert all(record["schema_valid"] for record in records if record["finish_reason"] == "stop" and record["schema"])
    assert f"({len(records)} calls)" in demo.output.replace("\n", "")
    assert "every call adds up" in demo.output


def test_audit_verify_and_show(demo: Demo) -> None:
    calls = len(demo.file.read_text().rstrip("\n").split("\n"))
    plain, as_json = run("audit", "verify", demo.file), run("audit", "verify", demo.file, "--json")
    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    assert "every one adds up" in plain.output
    assert json.loads(as_json.output) == []
    table = run("audit", "show", demo.file)
    assert table.exit_code == 0
    assert " ".join(table.output.split()).count("; rows agree: checked") == 1
    shown = json.loads(run("audit", "show", demo.file, "--json").output)
    assert [line["sequence"] for line in shown] == list(range(1, calls + 1))


def test_edited_count_is_found_and_placed(demo: Demo, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in demo.file.read_text().rstrip("\n").split("\n")]
    at = next(i for i, line in enumerate(lines) if any(made["accepted"] for made in line["record"]["rounds"]))
    rounds = lines[at]["record"]["rounds"]
    number = next(i for i, made in enumerate(rounds) if made["accepted"])
    rounds[number]["accepted"] += 1
    file = tmp_path / "edited.jsonl"
    file.write_text("".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines))
    plain, as_json = run("audit", "verify", file), run("audit", "verify", file, "--json")
    assert (plain.exit_code, as_json.exit_code) == (1, 1)
    found = {(problem["line"], problem["field"]) for problem in json.loads(as_json.output)}
    assert (at + 1, f"rounds[{number}].accepted") in found
    assert (at + 1, "sha256") in found
    assert {line for line, _ in found} <= {at + 1, at + 2}, "only the edited line and the chain to the next"
    assert "chain" in plain.output


def test_show_names_lines_that_it_cannot_read(demo: Demo, tmp_path: Path) -> None:
    file = tmp_path / "torn.jsonl"
    file.write_bytes(demo.file.read_bytes()[:-40])
    last = len(demo.file.read_text().rstrip("\n").split("\n"))
    assert f"line {last} cannot be read" in run("audit", "show", file).output
    assert run("audit", "verify", file).exit_code == 1


def test_generate_under_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SHORT))
    words = ("generate", "How long is it?", "--schema", schema, "--max-tokens", "24")
    outputs = [json.loads(run(*words, "--json", "--mode", mode).output) for mode in ("ar", "linear_spec")]
    assert outputs[0]["token_ids"] == outputs[1]["token_ids"]
    assert outputs[0]["valid"] is True
    assert set(json.loads(outputs[0]["text"])) == {"low", "unit"}
    plain = run(*words, "--no-chat")
    assert plain.exit_code == 0
    assert "finish_reason stop" in plain.output.replace("\n", " ")


def test_generate_takes_what_its_hints_advise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = tmp_path / "schema.json"
    pair = {"prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 2}
    schema.write_text(json.dumps({"type": "array", **pair, "uniqueItems": True}))
    words = ("generate", "Count.", "--schema", schema, "--max-tokens", "24")
    assert "guarantee='checked'" in fails(capsys, monkeypatch, *words)
    for more in ([], ["--stream"]):
        checked = run(*words, "--guarantee", "checked", "--retries", "1", *more)
        assert checked.exit_code == 0, checked.output
        assert "note: 'uniqueItems' at /uniqueItems is not in the grammar" in checked.stderr
        assert ("retries=1 has no part in this call: a stream is one attempt" in checked.stderr) == bool(more)
    said = json.loads(run(*words, "--guarantee", "checked", "--json").stdout)
    assert said["notes"][0].startswith("'uniqueItems'")
    schema.write_text(json.dumps({"type": "string", "format": "shoe-size", "maxLength": 3}))
    assert run(*words).exit_code == 0
    assert "formats='annotate'" in fails(capsys, monkeypatch, *words, "--formats", "assert")
    assert "expected one of annotate, assert" in fails(capsys, monkeypatch, *words, "--formats", "maybe")
    assert "guarantee='maybe'" in fails(capsys, monkeypatch, *words, "--guarantee", "maybe")


def test_generate_follows_the_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "trimode.toml"
    file.write_text('[kinds.prose]\nmode = "linear_spec"\nmax_tokens = 4\n')
    by_file = json.loads(run("generate", "x", "--json").output)
    assert by_file["reason"] == "linear_spec: policy 'trimode.toml' for prose steps"
    assert by_file["output_tokens"] <= 4
    named = json.loads(run("generate", "x", "--json", "--mode", "ar", "--max-tokens", "6").output)
    assert (named["reason"], named["output_tokens"] > 4) == ("ar: call argument", True)
    file.write_text("[kinds.prose\n")
    broken = run("generate", "x")
    assert isinstance(broken.exception, tm.PolicyError)
    assert "trimode.toml" in str(broken.exception)


def test_eval_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    result = run("eval", EPISODES, "--limit", "1", "--max-tokens", "40", "--modes", "ar,linear_spec", "--json", out)
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())
    assert all(set(row) == ROW for row in rows)
    assert {row["source"] for row in rows} == {"episodes"}
    assert {row["mode"] for row in rows} == {"ar", "linear_spec"}
    assert {row["agree_ar"] for row in rows} == {1.0}, "exact modes agree"
    assert {row["valid"] for row in rows} <= {None, 1.0}
    assert all(row["exact_name"] is None for row in rows if row["step"] != "tool_call")


def test_eval_without_ar_compares_with_nothing(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    run("eval", EPISODES, "--limit", "1", "--max-tokens", "2", "--modes", "diffusion", "--json", out)
    assert {row["agree_ar"] for row in json.loads(out.read_text())} == {None}


def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo: Demo
) -> None:
    sealed = demo.file
    broken, refused, pickled = tmp_path / "broken.json", tmp_path / "refused.json", tmp_path / "pickled"
    broken.write_text("{")
    refused.write_text('{"properties":{"a":{"type":"array","uniqueItems":true}}}')
    nothing, cut = tmp_path / "nothing.json", tmp_path / "cut.jsonl.gz"
    nothing.write_text("null")
    cut.write_bytes(EPISODES.read_bytes()[:500])
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    cases = [
        (["generate", "x", "--mode", "turbo"], "unknown mode 'turbo'"),
        (["generate", "x", "--max-tokens", "0"], "max_tokens=0"),
        (["generate", "word " * 3000], "exceeds the context of 1024 tokens"),
        (["generate", "x", "--checkpoint", "/no/such/place"], "no checkpoint directory or GGUF file at /no/such/place"),
        (["generate", "x", "--checkpoint", str(pickled)], "architectures"),
        (["generate", "x", "--schema", str(broken)], "cannot read a JSON Schema"),
        (["generate", "x", "--schema", str(tmp_path / "none.json")], "cannot read a JSON Schema"),
        (["generate", "x", "--schema", str(refused)], "'uniqueItems' at /properties/a/uniqueItems"),
        (["eval", str(EPISODES), "--modes", "ar,turbo"], "--modes: unknown mode 'turbo'"),
        (["generate", "x", "--schema", str(nothing)], "it holds null"),
        (["eval", str(broken)], "broken.json: expected an episode in line 1"),
        (["eval", str(refused)], "refused.json: expected an episode in line 1: KeyError: 'text'"),
        (["eval", str(cut)], "cut.jsonl.gz: expected an episode in line 1"),
        (["eval", str(EPISODES), "--registry", str(broken)], "broken.json: expected a registry"),
        (
            ["eval", str(EPISODES), "--json", str(tmp_path / "no" / "rows.json"), "--limit", "1"],
            "there is no directory",
        ),
        (["demo", "--audit", str(broken / "audit.jsonl")], "broken.json/audit.jsonl: Not a directory"),
        (["demo", "--trace", "jaeger"], "trace(to='jaeger'): expected 'phoenix', 'mlflow', or a URL"),
        (["audit", "push", str(broken), "--to", "jaeger"], "cannot send spans to 'jaeger': expected 'phoenix'"),
        (["audit", "push", str(sealed), "--to", "http://127.0.0.1:9"], "did not take the spans (0 were sent before)"),
        (["audit", "report", str(broken), "-o", str(tmp_path / "p.html"), "--calls", "x"], "expected FIRST:LAST"),
        (["audit", "report", str(broken), "-o", str(tmp_path / "no" / "p.html")], "no/p.html: No such file"),
    ]
    for words, message in cases:
        assert message in fails(capsys, monkeypatch, *words), words


def test_empty_schema_file_is_a_schema(tmp_path: Path) -> None:
    """`{}` and `true` allow anything; only a missing --schema means no schema."""
    schema = tmp_path / "schema.json"
    for text in ("{}", "true"):
        schema.write_text(text)
        output = json.loads(run("generate", "x", "--schema", schema, "--max-tokens", "3", "--json").output)
        assert "json steps" in output["reason"]


def test_module_runs() -> None:
    for words, code, message in ((["--help"], 0, "Usage"), (["generate", "x", "--mode", "turbo"], 2, "error: ")):
        done = subprocess.run(
            [sys.executable, "-m", "trimode", *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert issubclass(tm.CheckpointError, tm.TrimodeError)


def test_a_stream_prints_what_the_result_says() -> None:
    words = ("generate", "How long is it?", "--max-tokens", "12")
    streamed, whole = run(*words, "--stream"), run(*words)
    assert streamed.exit_code == whole.exit_code == 0
    assert streamed.stdout == whole.stdout
