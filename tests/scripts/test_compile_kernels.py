"""Kernels compiled for sm_90 without a GPU: what the compiler chose is what row invariance rests on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "compile_kernels.py"


def compiled(only: str, report: Path, *more: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--only", only, "--json", str(report), *more]
    subprocess.run(command, check=True, timeout=240, capture_output=True)
    found: list[dict[str, Any]] = json.loads(report.read_text())["kernels"]
    return found


def test_each_number_of_rows_takes_the_same_matrix_instruction(tmp_path: Path) -> None:
    """wgmma m64 k16 for 1 to 128 rows, and nothing kept in local memory; a second instruction would sum otherwise."""
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text("before\n<!-- kernels-sm90 -->\nold\n<!-- /kernels-sm90 -->\nafter\n")
    kernels = compiled("head", found, "--page", str(page))
    assert {kernel["case"] for kernel in kernels} == {
        f"head {kept}, {rows} rows" for kept in ("bf16", "int8", "fp8") for rows in (1, 32, 64, 128)
    }
    for kernel in kernels:
        (instruction,) = kernel["products"]
        assert instruction.startswith("m64n")
        assert instruction.endswith("k16")
        assert kernel["spilled_bytes"] == 0
        assert 0 < kernel["registers"] < 255
        assert kernel["programs"] >= 1
    written = page.read_text()
    assert written.startswith("before\n<!-- kernels-sm90 -->\n| case |")
    assert written.endswith("|\n<!-- /kernels-sm90 -->\nafter\n")
    assert written.count("| `_products` |") == len(kernels)


def test_attention_compiles_to_the_same_for_any_number_of_rows(tmp_path: Path) -> None:
    kernels = compiled("attention bf16", tmp_path / "found.json")
    one, many = kernels[:2], kernels[2:]
    assert [{**kernel, "case": ""} for kernel in one] == [{**kernel, "case": ""} for kernel in many]
    partials, merge = one
    assert partials["products"] == ["m64n128k16", "m64n64k16"]
    assert partials["spilled_bytes"] == merge["spilled_bytes"] == 0
    assert partials["programs"] == 2


def test_noise_compiles_to_separate_products_and_sums(tmp_path: Path) -> None:
    """Its bits are those of the torch reference, which rounds after each operation."""
    (draw,) = compiled("noise", tmp_path / "found.json")
    assert draw["fused"] == 0
    (scan, _) = compiled("sampling", tmp_path / "found.json")[:2]
    assert scan["fused"] == 0


def test_the_table_in_the_docs_is_the_committed_one() -> None:
    report = json.loads((ROOT / "docs" / "benchmarks" / "kernels-sm90.json").read_text())
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    lines = page.split("<!-- kernels-sm90 -->\n")[1].split("\n<!-- /kernels-sm90 -->")[0].splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [each["case"] for each in report["kernels"]]
    assert [int(line.split(" | ")[3]) for line in lines] == [each["registers"] for each in report["kernels"]]
