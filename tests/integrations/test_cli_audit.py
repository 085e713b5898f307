"""`trimode audit replay | diff | head | verify --head`: what they print and what their exit codes mean."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.integrations.cli import app as cli
from trimode.policy.audit.trail import AuditFile, read_audit, records
from trimode.policy.calls.engine import Engine


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Engine.load
    monkeypatch.setattr(Engine, "load", lambda source=None, **more: load(source, **more) if source else reference)


@pytest.fixture(scope="module")
def trail(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = AuditFile(tmp_path_factory.mktemp("trail") / "audit.jsonl", content=True, rotate=6000)
    with tm.session(reference, policy=tm.Policy(), trace=file):
        for seed in (1, 2):
            for mode in ("ar", "linear_spec", "diffusion"):
                reference.generate("The table is", mode=mode, temperature=1.0, seed=seed, max_tokens=8)
    return file.path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["audit", *map(str, words)])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    monkeypatch.setattr(sys, "argv", ["trimode", "audit", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "verify", "head", "replay", "diff"])
def test_help(command: str) -> None:
    assert "Usage" in run(command, "--help").output


def test_replay_of_a_whole_trail(trail: Path) -> None:
    plain, as_json = run("replay", trail), run("replay", trail, "--json")
    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    assert "6 of 6 calls the same, bit for bit" in " ".join(plain.output.split())
    assert [one["outcome"] for one in json.loads(as_json.output)] == ["same"] * 6


def test_replay_of_one_call(trail: Path) -> None:
    call = records(read_audit(trail))[1].call
    (one,) = json.loads(run("replay", trail, "--call", call[:9], "--json").output)
    assert (one["call"], one["outcome"]) == (call, "same")


def test_replay_under_policies(trail: Path, tmp_path: Path) -> None:
    """Side by side, by step; what was recorded in diffusion may come out otherwise in an exact mode."""
    (tmp_path / "spec.toml").write_text('[kinds.prose]\nmode = "linear_spec"\nblock_length = 4\n')
    plain, as_json = (run("replay", trail, "--policy", tmp_path / "spec.toml", *more) for more in ((), ("--json",)))
    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    recorded, again, spec = json.loads(as_json.output)
    assert [row["policy"] for row in (recorded, again, spec)] == ["as recorded", "again", str(tmp_path / "spec.toml")]
    assert (recorded["same"], again["same"], spec["mode"]) == (None, 6, "linear_spec:4")
    assert 4 <= spec["same"] <= 6
    assert "same tokens" in " ".join(plain.output.split())


def test_replay_under_a_policy_that_cannot_hold(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.toml").write_text('[kinds.prose]\nmode = "diffusion"\n')
    assert "bad.toml:2: " in fails(capsys, monkeypatch, "replay", trail, "--policy", tmp_path / "bad.toml")


def test_replay_names_the_round_and_the_cause(trail: Path, folder: Path, tmp_path: Path) -> None:
    """The weights are another copy with one number changed, so other tokens come out."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "norm" in name)
    weights[name] = weights[name] * 3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    plain, as_json = run("replay", trail, "--model", other), run("replay", trail, "--model", other, "--json")
    assert (plain.exit_code, as_json.exit_code) == (1, 1)
    found = json.loads(as_json.output)
    assert all(one["outcome"] == "different" for one in found)
    assert all(one["round"] >= 0 and one["causes"][0].startswith("weights: ") for one in found)
    assert "other tokens, from round" in " ".join(plain.output.split())


def test_replay_without_content_is_refused(
    reference: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AuditFile(tmp_path / "bare.jsonl", content=False)
    with tm.session(reference, policy=tm.Policy(), trace=file):
        reference.generate("x", max_tokens=2)
    assert "nothing to replay: the record holds no token ids" in fails(capsys, monkeypatch, "replay", file.path)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    message = fails(capsys, monkeypatch, "replay", tmp_path / "empty.jsonl")
    assert "nothing to replay: no readable call" in message
    with tm.session(reference, policy=tm.Policy(), trace=AuditFile(file.path, content=True)):
        reference.generate("x", max_tokens=2)
    mixed = run("replay", file.path)
    assert mixed.exit_code == 0
    assert "1 of 2 calls the same, bit for bit, 1 without content" in " ".join(mixed.output.split())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "words",
    [
        ("audit", "show", "FILE"),
        ("audit", "verify", "FILE"),
        ("audit", "head", "FILE"),
        ("audit", "replay", "FILE"),
        ("audit", "diff", "FILE", "TRAIL"),
        ("audit", "diff", "TRAIL", "FILE#x"),
        ("audit", "report", "FILE", "--out", "page.html"),
        ("audit", "push", "FILE", "--to", "phoenix"),
        ("policy", "explain", "FILE"),
    ],
    ids=" ".join,
)
def test_files_that_are_no_trail_are_refused_by_every_reader(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.jsonl").write_text('{"level": "info"}\n')
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    for file in ("other.jsonl", "picture.png", *(["/dev/full"] if Path("/dev/full").exists() else [])):
        given = [word.replace("FILE", file).replace("TRAIL", str(trail)) for word in words]
        monkeypatch.setattr(sys, "argv", ["trimode", *given])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert said.startswith(f"error: {file}: "), said
        assert "audit" in said
    assert not Path("page.html").exists()


def test_diff_of_files_and_of_calls(trail: Path, tmp_path: Path, reference: Engine) -> None:
    assert run("diff", trail, trail).exit_code == 0
    assert "no difference in 6 calls" in run("diff", trail, trail).output
    first, _, _, fourth, *_ = (record.call for record in records(read_audit(trail)))
    plain = run("diff", f"{trail}#{first}", f"{trail}#{fourth[:10]}")
    assert plain.exit_code == 1
    assert "sampling.seed" in plain.output
    (pair,) = json.loads(run("diff", f"{trail}#{first}", f"{trail}#{fourth}", "--json").output)
    assert {"field": "sampling.seed", "a": "1", "b": "2"} in pair["differences"]
    other = AuditFile(tmp_path / "other.jsonl", content=True)
    with tm.session(reference, policy=tm.Policy(), trace=other):
        reference.generate("The table is", mode="ar", temperature=1.0, seed=1, max_tokens=8)
    pairs = json.loads(run("diff", trail, other.path, "--json").output)
    assert [pair["number"] for pair in pairs] == [1, 2, 3, 4, 5, 6][-len(pairs) :]
    assert pairs[-1]["b"] == "(no such call)"


def test_what_cannot_be_compared_or_found(
    trail: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = records(read_audit(trail))[0].call
    for words, message in (
        (["diff", f"{trail}#{call}", str(trail)], "expected two files, or two calls"),
        (["diff", f"{trail}#zz", f"{trail}#zz"], "0 calls begin with 'zz'"),
        (["replay", str(trail), "--call", ""], "6 calls begin with ''"),
        (["diff", "/no/such/file", str(trail)], "No such file"),
        (["verify", str(trail), "--head", "seven"], "expected NUMBER:SHA256"),
    ):
        assert message in fails(capsys, monkeypatch, *words), words


def test_a_kept_head_shows_what_was_cut_off(trail: Path, tmp_path: Path) -> None:
    stood = run("head", trail).output.strip()
    assert stood.startswith("6:")
    assert run("verify", trail, "--head", stood).exit_code == 0
    cut = tmp_path / "audit.jsonl"
    cut.write_bytes(trail.read_bytes())
    assert run("verify", cut).exit_code == 0, "the first part is a good trail"
    missing = run("verify", cut, "--head", stood, "--json")
    assert missing.exit_code == 1
    assert [problem["field"] for problem in json.loads(missing.output)] == ["head"]


def test_head_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert "holds no line yet" in fails(capsys, monkeypatch, "head", tmp_path / "empty.jsonl")
