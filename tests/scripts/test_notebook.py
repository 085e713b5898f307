"""The tutorial notebook: its cells run in order, and its stored outputs are what they show."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "pictures"))

from run_notebook import outputs_of  # noqa: E402

NOTEBOOK = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text(encoding="utf-8"))


def test_the_stored_outputs_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = [cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert outputs_of(NOTEBOOK) == stored


def test_results_and_sessions_are_rendered() -> None:
    shown = [out["data"] for cell in NOTEBOOK["cells"] for out in cell.get("outputs", ()) if "data" in out]
    assert len([data for data in shown if "text/html" in data]) >= 2


def test_it_is_a_notebook_of_format_4() -> None:
    """What viewers need: format, kernel, and ids of cells, which no two share."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"]["language"] == "python"
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
