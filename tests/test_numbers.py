"""The numbers of README.md and docs/evaluation.md are those of the rows that were measured, in docs/benchmarks/."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "tables"))

from speed_table import to_llamacpp  # noqa: E402

EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIVE = README[README.index("## Five numbers") : README.index("## What holds")]
KINDS = ("plan", "tool_call", "json", "prose")
MODES = ("ar", "linear_spec", "diffusion")


def measured(name: str) -> Any:
    return json.loads((ROOT / "docs" / "benchmarks" / name).read_text(encoding="utf-8"))


def shown(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The cells of one line, from the rows of its modes."""

    def percents(field: str, modes: Iterable[str]) -> str:
        shares = [rows[mode][field] for mode in modes]
        return "" if shares[0] is None else " / ".join(f"{100 * share:.0f}" for share in shares)

    first, held = rows["ar"], rows["ar"]["valid"] is not None
    return [
        first["source"], first["step"], f"{first['n']:,}", f"{first['tokens']:,}",
        " / ".join(f"{rows[mode]['tpf']:.2f}" for mode in MODES),
        percents("valid", MODES),
        " / ".join(str(rows[mode]["closed"]) for mode in MODES) if held else "",
        percents("exact_name", ("ar", "diffusion")), percents("exact_args", ("ar", "diffusion")),
        percents("agree_ar", ("linear_spec", "diffusion")),
    ]  # fmt: skip


def test_the_table_of_the_evaluation_shows_its_rows() -> None:
    by_step: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in measured("eval-cpu.json"):
        by_step.setdefault((row["source"], row["step"]), {})[row["mode"]] = row
    lines = re.findall(r"^\| (?:sgd_test|star|tm4|gsm8k) .*\|$", EVALUATION, re.MULTILINE)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(table) == len(by_step) == 15
    assert sorted(table) == sorted(shown(rows) for rows in by_step.values())
    tokens = sum(rows["ar"]["tokens"] for rows in by_step.values())
    steps = sum(rows["ar"]["n"] for rows in by_step.values())
    assert f"Over these {tokens:,}\ntokens ({steps:,} steps)" in EVALUATION


def test_tokens_that_differ() -> None:
    exactness = measured("exactness-cpu.json")
    assert f"**{exactness['differ']} of {exactness['tokens']:,}** tokens differ" in FIVE
    assert f"compared {exactness['tokens']:,} tokens" in EVALUATION


def test_validity_and_tokens_a_pass() -> None:
    held = [row for row in measured("eval-cpu.json") if row["step"] in ("tool_call", "json")]
    by_mode = {mode: [row for row in held if row["mode"] == mode] for mode in MODES}
    rates = {
        mode: sum(row["tokens"] for row in rows) / sum(row["forward_passes"] for row in rows)
        for mode, rows in by_mode.items()
    }
    assert {row["valid"] for row in held} == {1.0}
    assert f"**100 %** of {sum(row['n'] for row in by_mode['ar']):,} tool calls and JSON outputs" in FIVE
    right = [row["exact_args"] for row in by_mode["ar"] if row["step"] == "tool_call"]
    assert f"right in {100 * min(right):.0f} to {100 * max(right):.0f} % by source" in FIVE
    said = f"**{rates['linear_spec']:.2f}** tokens a pass in `linear_spec` on these, **{rates['ar']:.2f}** in `ar`"
    assert f"{said}, {rates['diffusion']:.2f} in `diffusion`" in FIVE
    assert f"its TPF is {rates['linear_spec']:.2f} (`ar` {rates['ar']:.2f}, `diffusion` {rates['diffusion']:.2f}" in (
        EVALUATION
    )


def test_speed_against_hugging_face() -> None:
    found = {(row["contender"], row["group"], row["step"]): row for row in measured("bench-cpu-2threads.json")["rows"]}
    ar, linear = ([found[name, "free", kind] for kind in KINDS] for name in ("ar", "linear_spec:8"))
    decoding, whole = ([row[field] for row in ar] for field in ("decode_speedup", "speedup"))
    assert f"**{min(decoding):.0f} to {max(decoding):.0f} times** the decoding speed" in FIVE
    assert f"{min(whole):.1f} to {max(whole):.1f} times for whole calls" in FIVE
    shares = [b["decode_tokens_per_s"] / a["decode_tokens_per_s"] for a, b in zip(ar, linear, strict=True)]
    assert f"**{min(shares):.2f} to {max(shares):.2f}** of `ar`'s" in FIVE


@pytest.mark.parametrize(("what", "text"), [("file_and_spans", "**{:.2f} ms**"), ("file", "(file alone {:.2f})")])
def test_what_recording_costs(what: str, text: str) -> None:
    recording = measured("recording-cpu.json")
    assert text.format(recording["caller_ms"][what]["cpu"]["over_off"]) in FIVE
    assert f"a call of {recording['output_tokens_median']:.0f} tokens" in FIVE


def test_there_are_five_each_with_how_it_was_measured() -> None:
    lines = [line for line in FIVE.splitlines() if line.startswith("| **")]
    assert len(lines) == 5
    for line in lines:
        assert re.search(r"`(trimode \w+|scripts/\w+\.py)`|the same", line.split("|")[3]), line


def test_the_table_next_to_llamacpp_is_made_of_its_reports() -> None:
    """`speed_table.py` over the reports of `make bench-peers` that are kept, the shorter weights last."""
    reports = [measured(path.name) for path in (ROOT / "docs" / "benchmarks").glob("peers-*.json")]
    reports.sort(key=lambda report: -report["floor"]["weight_bytes"])
    assert re.findall(r"^\| SmolLM2-135M, [A-Z].*\|$", README, re.MULTILINE) == list(to_llamacpp(reports))[2:]
