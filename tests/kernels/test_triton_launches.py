"""What Triton compiles for an engine: all of it when graphs are captured, and one binary whatever the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "launched.py"


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT], check=True, capture_output=True, text=True, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_is_compiled_amid_serving(launched: dict[str, Any]) -> None:
    """Runs passes of 1 to 512 rows without a graph, with and without adapter and filters, after the capture."""
    assert launched["more"].keys() == launched["warm"].keys()
    assert not any(launched["more"].values())


def test_attention_and_the_choice_of_tokens_are_one_binary_each(launched: dict[str, Any]) -> None:
    """A row runs through the same code in any batch: alone, with columns at odd addresses, next to filtered rows."""
    warm = launched["warm"]
    assert {
        name: warm[name] for name in ("_place", "_partials", "_merge", "_scan", "_choose", "_fold")
    } == dict.fromkeys(("_place", "_partials", "_merge", "_scan", "_choose", "_fold"), 1)
    assert warm["_gated"] == 2 * 4, "16, 32, 64 and 128 rows, without and with an adapter"
