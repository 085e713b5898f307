"""The measurement of modes side by side: what it counts adds up, and its JSON holds whenever the run is ended."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import measure_drafts  # noqa: E402
from draft_bench.modes import Comparison, Counts, compare, turns  # noqa: E402

from trimode.policy.calls import Engine  # noqa: E402

EPISODES = Path(str(files("trimode.integrations"))) / "cli/data/episodes.jsonl.gz"


def test_it_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = f"x {EPISODES} --parts modes --steps 1 --temperatures 0 1 --variants linear_spec:6 lookup_spec --json {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    measure_drafts.main()
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report == json.loads(capsys.readouterr().out)
    modes = report["modes"]
    assert modes["differ"] == 0
    for place in ("kind", "temperature", "variant"):
        assert len({row[place] for row in modes["rows"]}) > 1
    total = next(t for t in modes["totals"] if len(t["kinds"]) == 4 and t["variant"] == "ar" and t["temperature"] == 0)
    rows = [row for row in modes["rows"] if row["variant"] == "ar" and row["temperature"] == 0]
    for name in ("steps", "tokens", "passes"):
        assert total[name] == sum(row[name] for row in rows)
    assert total["median_to_ar"] == 1.0
    assert total["drafts"] == total["accepted"] == 0


def test_the_prompt_is_in_the_cache_and_every_variant_writes_the_same(reference: Engine) -> None:
    turn = next(turns(reference, [EPISODES], 1))
    found = compare(reference, turn, ["ar", "linear_spec:6", "quadratic_spec:4:1"], [0.0], number=2)
    assert {one.tokens for one in found.values()} == {next(iter(found.values())).tokens}
    linear = next(one for place, one in found.items() if place.variant == "linear_spec:6")
    assert linear.drafts > 0
    assert 0 < linear.accepted < linear.tokens
    assert linear.call_seconds >= linear.seconds


def test_no_step_begins_after_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"x {EPISODES} --parts modes --steps 2 --seconds -1 --json {tmp_path / 'out.json'}"
    monkeypatch.setattr(sys, "argv", words.split())
    measure_drafts.main()
    assert json.loads(capsys.readouterr().out)["modes"]["rows"] == []


def test_counts_of_nothing_are_unknown() -> None:
    empty = Comparison(["ar"], [0.0]).total(0.0, "ar").as_dict()
    assert empty == Counts().as_dict()
    assert empty["tpf"] is None
    assert empty["median_to_ar"] is None
