"""The tables of docs/decisions.md are those of the rows that were measured, in docs/benchmarks/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
MODELS = sorted((ROOT / "docs" / "benchmarks").glob("decision-calibration-*.json"))
DIMENSIONS = ("REP", "BAT", "MEA", "LOG", "CHO")
SUITES = sorted((ROOT / "docs" / "benchmarks").glob("jevbench-*.json"))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def lines(found: dict[str, Any]) -> list[str]:
    """The rows of one model: predicates as scored and with Platt's line, choices as scored and with a temperature."""
    model, predicate, choice = found["runtime"]["model"].rpartition("/")[2], found["predicate"], found["choice"]
    slope, offset = predicate["platt"]
    rows = [
        ("predicate, as scored", predicate["as_scored"]),
        (f"predicate, slope {slope:.2f}, offset {offset:.2f}", predicate["with_platt"]),
        ("choice, as scored", choice["as_scored"]),
        (f"choice, temperature {choice['temperature']:.1f}", choice["with_temperature"]),
    ]
    return [f"| {model} | {name} | {' | '.join(cells(row))} |" for name, row in rows]


def cells(row: dict[str, Any]) -> list[str]:
    accuracy, ranked = f"{100 * row['accuracy']:.0f} %", "auc" in row
    brier = f"{row['brier']:.3f} ({row['brier_of_the_base_rate']:.3f})" if ranked else "-"
    auc = f"{row['auc']:.2f}" if ranked else "-"
    return [f"{row['answers']:,}", accuracy, f"{row['ece']:.3f}", f"{row['nll']:.2f}", auc, brier]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_calibration(path: Path) -> None:
    for line in lines(read(path)):
        assert line in PAGE


def bins(found: dict[str, Any]) -> list[str]:
    spans = [(f"{row['low']:.1f} to {row['low'] + 0.1:.1f}", row) for row in found["bins"]]
    return [f"| {span} | {row['count']} | {row['confidence']:.2f} | {row['right']:.2f} |" for span, row in spans]


def test_reliability_of_the_bundled_weights() -> None:
    found = read(ROOT / "docs" / "benchmarks" / "decision-calibration-reference.json")
    for part in (found["predicate"]["with_platt"], found["choice"]["with_temperature"]):
        assert "\n".join(bins(part)) in PAGE


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_coherence(path: Path) -> None:
    found = read(path)
    assert coherence(found) in PAGE


def coherence(found: dict[str, Any]) -> str:
    """The row of one model: scores by dimension and overall, 0 to 100."""
    scores = [*(found["scores"]["pillars"][name] for name in DIMENSIONS), found["scores"]["overall"]]
    return f"| {found['model'].rpartition('/')[2]} | {' | '.join(f'{100 * score:.1f}' for score in scores)} |"
