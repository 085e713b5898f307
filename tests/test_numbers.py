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
LINEAR = "eval-linear-cpu.json"
BEFORE = "linear_spec, adapter before"
"""Its mode with the draft adapter that the checkpoint had before."""


def measured(name: str) -> Any:
    return json.loads((ROOT / "docs" / "benchmarks" / name).read_text(encoding="utf-8"))


Rows = dict[str, dict[str, Any]]
"""Rows of one source and step by mode."""


def by_step(name: str) -> list[Rows]:
    found: dict[tuple[str, str], Rows] = {}
    for row in measured(name):
        found.setdefault((row["source"], row["step"]), {})[row["mode"]] = row
    return list(found.values())


def shown(rows: Rows, rated: Iterable[str], modes: tuple[str, str], compared: Iterable[str]) -> list[str]:
    """The cells of one line: TPF of the modes `rated`, validity of `modes`, exactness of those `compared`."""

    def percents(field: str, modes: Iterable[str]) -> str:
        shares = [rows[mode][field] for mode in modes]
        return "" if shares[0] is None else " / ".join(f"{100 * share:.0f}" for share in shares)

    first, held = rows["ar"], rows["ar"]["valid"] is not None
    return [
        first["source"], first["step"], f"{first['n']:,}", f"{first['tokens']:,}",
        " / ".join(f"{rows[mode]['tpf']:.2f}" for mode in rated),
        percents("valid", modes),
        " / ".join(str(rows[mode]["closed"]) for mode in modes) if held else "",
        percents("exact_name", compared), percents("exact_args", compared), percents("agree_ar", modes[1:]),
    ]  # fmt: skip


def test_the_tables_of_the_evaluation_show_their_rows() -> None:
    lines = re.findall(r"^\| (?:sgd_test|star|tm4|gsm8k) .*\|$", EVALUATION, re.MULTILINE)
    table = [[cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")] for line in lines]
    linear, diffusion = by_step(LINEAR), by_step("eval-cpu.json")
    expected = [shown(rows, ("ar", BEFORE, "linear_spec"), ("ar", "linear_spec"), ("ar",)) for rows in linear]
    expected += [shown(rows, ("ar", "diffusion"), ("ar", "diffusion"), ("ar", "diffusion")) for rows in diffusion]
    assert sorted(table) == sorted(expected)
    assert len(linear) == len(diffusion) == 15
    tokens, steps = (sum(rows["ar"][name] for rows in linear) for name in ("tokens", "n"))
    assert f"Over these {tokens:,}\ntokens ({steps:,} steps)" in EVALUATION
    assert all(len({row["tokens"] for row in rows.values()}) == 1 for rows in linear)


def test_tokens_that_differ() -> None:
    exactness = measured("exactness-cpu.json")
    assert f"**{exactness['differ']} of {exactness['tokens']:,}** tokens differ" in FIVE
    assert f"compared {exactness['tokens']:,} tokens" in EVALUATION


def rate(rows: Iterable[Rows], mode: str) -> float:
    """Tokens a pass on structured steps."""
    held = [one[mode] for one in rows if one["ar"]["valid"] is not None]
    return float(sum(row["tokens"] for row in held) / sum(row["forward_passes"] for row in held))


def test_validity_and_tokens_a_pass() -> None:
    linear, diffusion = by_step(LINEAR), by_step("eval-cpu.json")
    held = [one for one in diffusion if one["ar"]["valid"] is not None]
    assert {row["valid"] for one in held for row in one.values()} == {1.0}
    assert f"**100 %** of {sum(one['ar']['n'] for one in held):,} tool calls and JSON outputs" in FIVE
    right = [one["ar"]["exact_args"] for one in held if one["ar"]["step"] == "tool_call"]
    assert f"right in {100 * min(right):.0f} to {100 * max(right):.0f} % by source" in FIVE
    steps = sum(one["ar"]["n"] for one in linear if one["ar"]["valid"] is not None)
    said = f"**{rate(linear, 'linear_spec'):.2f}** tokens a pass in `linear_spec` on {steps:,} of these"
    rest = f"**{rate(linear, 'ar'):.2f}** in `ar`; {rate(diffusion, 'diffusion'):.2f} in `diffusion` on all"
    assert f"{said}, {rest}" in FIVE
    assert f"its TPF is {rate(linear, 'linear_spec'):.2f} (`ar` {rate(linear, 'ar'):.2f}" in EVALUATION
    assert f"of before {rate(linear, BEFORE):.2f}; {steps:,} steps)" in EVALUATION
    assert f"TPF of `diffusion` is {rate(diffusion, 'diffusion'):.2f} (`ar` {rate(diffusion, 'ar'):.2f}" in EVALUATION


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
