"""Tables of speed: ratios from small reports whose right answers are counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "tables"))

import speed_table  # noqa: E402


def row(contender: str, group: str, step: str, rate: float, prefill: float) -> dict[str, Any]:
    return {
        "contender": contender, "group": group, "step": step, "decode_tokens_per_s": rate, "prefill_seconds": prefill,
    }  # fmt: skip


REPORT: Any = {
    "about": {
        "model": "smollm2-q8_0.gguf", "resident_bytes": 600e6,
        "peers": {"llamacpp": {"resident_bytes": 300e6}, "llamacpp-native": {"resident_bytes": None}},
    },
    "floor": {"weight_bytes": 143e6},
    "rows": [
        row("llamacpp", "peer", "plan", 50, 2.0), row("llamacpp", "peer", "json", 50, 1.0),
        row("llamacpp-native", "peer", "plan", 100, 1.0), row("ar", "free", "plan", 200, 0.5),
        row("ar", "free", "json", 100, 0.5), row("llamacpp+schema", "peer-schema", "tool_call", 40, 1.0),
        row("ar+schema", "schema", "tool_call", 80, 1.0), row("lookup_spec+schema", "schema", "tool_call", 120, 1.0),
        row("lookup_spec+schema", "schema", "json", 999, 1.0),
    ],
}  # fmt: skip


def test_a_report_is_a_line_of_ratios_to_both_builds() -> None:
    """One step kind of the compiled build is missing, and its schema and memory are."""
    *_, line = speed_table.to_llamacpp([REPORT])
    assert line == (
        "| SmolLM2-135M, Q8_0 | 143 | 2.00-4.00 / 2.00-2.00 | 2.00-4.00 / 2.00-2.00 | 3.00 /  | 600 / 300 / ? |"
    )


def test_modes_next_to_ar_by_source_and_on_average(tmp_path: Path) -> None:
    rates = {
        ("tm4", "json", "ar"): 100, ("tm4", "json", "lookup_spec"): 150, ("tm4", "json", "auto"): 140,
        ("star", "tool_call", "ar"): 200, ("star", "tool_call", "lookup_spec"): 220, ("star", "prose", "ar"): 100,
        ("star", "prose", "lookup_spec"): 90, ("star", "prose", "auto"): 98,
    }  # fmt: skip
    rows = [
        {"source": source, "step": step, "mode": mode, "n": 4, "tokens_per_s": rate}
        for (source, step, mode), rate in rates.items()
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    command = [sys.executable, str(ROOT / "scripts" / "tables" / "speed_table.py"), "--steps", str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[2:] == [
        "| tm4 | json | 4 | 100 | 1.50 | 1.40 |",
        "| star | tool_call | 4 | 200 | 1.10 |  |",
        "| star | prose | 4 | 100 | 0.90 | 0.98 |",
        "| mean | tool_call and json |  |  | 1.30 | 1.40 |",
        "| mean | prose |  |  | 0.90 | 0.98 |",
    ]
