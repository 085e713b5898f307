"""`trimode bench` and `trimode export` from the command line: what the rows hold, and ids that are Hugging Face's.

No test looks at a time, only at whether there is one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trimode.engine.errors import TrimodeError
from trimode.integrations.bench.roofline import Roofline, possible, read_parameters
from trimode.integrations.bench.rows import Report, bounds, row
from trimode.integrations.bench.systems import Question, Reading, SystemUnderTest, cold, ours
from trimode.integrations.bench.tables import lines
from trimode.integrations.cli import app as cli
from trimode.integrations.cli.demo import DATA
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.settings import Settings

EPISODES = Path(str(DATA / "episodes.jsonl.gz"))
ROW = {
    "contender", "group", "step", "n", "rounds", "prompt_tokens", "tokens", "passes", "seconds", "prefill_seconds",
    "decode_tokens_per_s", "speedup", "speedup_sum", "prefill_speedup", "decode_speedup", "speedup_ar",
    "decode_speedup_ar", "equal_ids",
    "different_ids",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Engine.load
    monkeypatch.setattr(Engine, "load", lambda source=None, **more: load(source, **more) if source else reference)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    """What the program prints where it cannot do what was asked; its exit code is 2."""
    monkeypatch.setattr(sys, "argv", ["trimode", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_rows_of_a_small_run(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ("--steps", "1", "--rounds", "1", "--max-tokens", "40", "--modes", "ar,linear_spec,ar")
    result = run("bench", EPISODES, *words, "--json", out)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text())
    rows = report["rows"]
    assert all(set(line) == ROW for line in rows)
    free = {"hf", "hf-lookup", "ar", "linear_spec"}
    for kind in ("plan", "tool_call", "json", "prose"):
        found = {line["contender"] for line in rows if line["step"] == kind}
        assert found == (free | {"ar+schema", "linear_spec+schema"} if kind in ("tool_call", "json") else free)
    for line in rows:
        assert (line["n"], line["rounds"]) == (1, 1)
        assert 0 < line["tokens"] <= 40
        assert 0 < line["prefill_seconds"] < line["seconds"]
        assert line["speedup"] > 0
        compared = line["group"] != "schema" and line["contender"] != "hf"
        assert (line["equal_ids"], line["different_ids"]) == ((1, 0) if compared else (None, None)), line
    assert {line["speedup"] for line in rows if line["contender"] == "hf"} == {1.0}
    about = report["about"]
    assert about["hf_cache"] in ("dynamic", "static")
    assert about["base"] == "hf"
    assert report["not_run"].keys() == {"hf+schema", "hf-lookup+schema"}
    assert {line["speedup_ar"] for line in rows if line["contender"].startswith("ar")} == {1.0}
    assert about["files"] == ["episodes.jsonl.gz"]
    assert all(about[name] for name in ("cpu", "cores", "threads", "torch", "transformers", "trimode", "command"))
    assert min(value for value in report["floor"].values() if value is not None) > 0  # a busy machine has no floor
    assert "derived" in result.output


def test_our_modes_alone_have_no_ratios(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    result = run(
        "bench", EPISODES, "--peers", "", "--modes", "linear_spec", "--steps", "1", "--rounds", "2",
        "--max-tokens", "40", "--json", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["about"]["hf_cache"] is None
    assert {row["group"] for row in report["rows"]} == {"free", "schema"}
    assert {(row["rounds"], row["speedup"], row["equal_ids"]) for row in report["rows"]} == {(2, None, None)}
    assert report["floor"]["ar_pass_seconds"] is None


def test_a_cold_engine_reads_its_prompt_again(reference: Engine) -> None:
    question = Question(source="here", kind="plan", prompt=tuple(range(40, 340)), schema=None)
    settings = Settings(max_tokens=2)
    alone = ours(cold(reference), "ar", settings, "free")
    assert alone.run(question).ids == alone.run(question).ids
    warm = ours(reference, "ar", settings, "free")
    with pytest.raises(TrimodeError, match="prompt tokens from an earlier one"):
        [warm.run(question) for _ in range(2)]


def reading(seconds: float, ids: tuple[int, ...] = (1, 2, 3)) -> Reading:
    return Reading(
        ids=ids, seconds=seconds, prefill_seconds=seconds / 2, decode_seconds=seconds / 2, decode_tokens=2, passes=2
    )


def test_a_row_is_medians_of_medians_and_paired_ratios() -> None:
    asked = [Question(source="here", kind="plan", prompt=(1,) * size, schema=None) for size in (10, 20, 30)]
    hf = {0: [reading(2), reading(4), reading(90)], 1: [reading(6)] * 3, 2: [reading(8)] * 3}
    mine = {
        0: [reading(2)] * 3,
        1: [reading(1), reading(1), reading(50)],
        2: [reading(4), reading(4), reading(4, (1,))],
    }

    def never(_: Question) -> Reading:
        raise AssertionError

    found = row(SystemUnderTest("ar", "free", never), "plan", asked, {"hf": hf, "ar": mine})
    assert found is not None
    assert (found.n, found.rounds, found.prompt_tokens, found.tokens, found.passes) == (3, 3, 20, 9, 6)
    assert (found.seconds, found.prefill_seconds) == (2, 1)
    assert found.speedup == 2  # of 4/2, 6/1 and 8/4
    assert found.speedup_sum == pytest.approx(18 / 7)
    assert found.decode_tokens_per_s == pytest.approx(6 / 3.5)
    assert found.decode_speedup == pytest.approx(18 / 7)
    assert (found.equal_ids, found.different_ids) == (2, 1), "one round with other ids is a different step"
    assert row(SystemUnderTest("ar", "free", never), "json", asked, {"hf": hf, "ar": mine}) is None


def test_floor_counts_the_matrices_of_a_pass(reference: Engine) -> None:
    model = reference.tokens.model
    matrices = {
        name: weight.numel() for name, weight in model.named_parameters() if weight.ndim == 2 and "adapter" not in name
    }
    assert read_parameters(model.config) == sum(matrices.values()), "tied: the embedding is the head"
    one = Roofline(
        weight_bytes=400, parameters=100, large_bytes_per_s=200.0, own_size_bytes_per_s=800.0, flop_per_s=50.0
    )
    assert (one.pass_seconds, one.pass_seconds_from_memory, one.multiply_seconds_per_row) == (0.5, 2.0, 4.0)


def machine(floor: float) -> Roofline:
    """A machine that reads the weights in `floor` seconds."""
    return Roofline(weight_bytes=1, parameters=1, large_bytes_per_s=1.0, own_size_bytes_per_s=1 / floor, flop_per_s=1.0)


def test_an_impossible_floor_is_measured_again() -> None:
    more = iter([machine(0.02), machine(0.0005), machine(0.0001)])
    found, holds = possible(machine(0.02), 0.0008, lambda: next(more))
    assert holds
    assert found.pass_seconds == pytest.approx(0.0005)
    assert next(more).pass_seconds == pytest.approx(0.0001), "no more often than it takes"


def test_a_possible_floor_is_not_measured_again() -> None:
    def never() -> Roofline:
        raise AssertionError

    assert possible(machine(0.0004), 0.0008, never)[1]
    assert possible(machine(0.02), None, never)[1], "no pass of ar was measured"


def test_a_floor_that_stays_impossible_is_reported_as_failed() -> None:
    tries = [machine(0.03), machine(0.02), machine(0.01)]
    found, holds = possible(tries[0], 0.0008, iter(tries[1:]).__next__)
    assert not holds
    assert found.pass_seconds == pytest.approx(0.01)
    readings = {"ar": {0: [replace(reading(0.0032), passes=2)]}}
    floor = bounds(found, readings, holds)
    assert (floor["derived_pass_seconds"], floor["derived_ar_share_of_floor"]) == (None, None)
    about = dict.fromkeys(("cpu", "cores", "threads", "torch", "transformers", "trimode", "model", "dtype"), "x")
    printed = list(lines(Report({**about, "hf_cache": None}, floor, {}, [])))
    assert printed[-1].startswith("the probe of the machine failed: in 3 tries its floor was 10.00 ms or more")
    assert "above the 0.80 ms that a pass of ar took" in printed[-1]
    assert not any("derived" in line or " % of the floor" in line for line in printed)
    kept = list(lines(Report({**about, "hf_cache": None}, bounds(machine(0.0004), readings), {}, [])))
    assert "derived: 50 % of the floor" in kept[-1]


def test_export_says_what_it_leaves_out(tmp_path: Path) -> None:
    result = run("export", tmp_path / "out", "--format", "ministral3")
    assert result.exit_code == 0, result.output
    for word in ("draft adapter linear_spec_lora/", "mask token 5", "block size 32"):
        assert f"not written: {word}" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja",
    }  # fmt: skip


def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "full.txt").write_text("")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    cases: list[tuple[list[str | Path], str]] = [
        (
            ["bench", EPISODES, "--peers", "hf,vllm"],
            "--peers: unknown peer 'vllm'; known: hf, hf-lookup, llamacpp, llamacpp-native, openvino, ort",
        ),
        (["bench", EPISODES, "--modes", "ar,turbo"], "--modes: unknown mode 'turbo'"),
        (["bench", EPISODES, "--json", tmp_path / "no" / "rows.json"], "there is no directory"),
        (["bench", empty], "no step of empty.jsonl can be asked"),
        (
            ["bench", EPISODES, "--checkpoint", "/no/such/place"],
            "no checkpoint directory or GGUF file at /no/such/place",
        ),
        (["export", tmp_path], "new or empty"),
        (["export", tmp_path / "new", "--format", "onnx"], "export format 'onnx': expected one of ministral3"),
    ]
    for words, message in cases:
        lines = fails(capsys, monkeypatch, *words).strip().split("\n")
        assert lines[-1].startswith("error: "), words
        assert message in lines[-1], words
    assert "does not exist" in fails(capsys, monkeypatch, "bench", tmp_path / "nothing.jsonl.gz")
