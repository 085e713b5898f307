"""Tables of speed from what `trimode bench` and `trimode eval` wrote, for README.md and docs/benchmarks.md.

    python scripts/tables/speed_table.py peers-f32.json peers-bf16.json peers-q8_0.json peers-q4_1.json
    python scripts/tables/speed_table.py --steps lookup-cpu.json

The first form prints a line for each report of `trimode bench --peers llamacpp,llamacpp-native --modes ar,lookup_spec`:
ratios of times, over the step kinds from the least to the largest, above 1 is faster than llama.cpp. The second one
prints how fast `lookup_spec` and `auto` decode next to `ar`, by source and step kind, from the rows of `trimode eval`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

PEERS: Final = ("llamacpp", "llamacpp-native")
"""llama.cpp as its wheel has it, and compiled on the machine."""
KINDS: Final = ("plan", "tool_call", "json", "prose")
BASE: Final = "ar"
AHEAD: Final = ("lookup_spec", "auto")

Rows = dict[tuple[str, str], dict[str, Any]]
"""Rows of a report by contender and step kind."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--steps", action="store_true", help="the files are rows of `trimode eval`")
    args = parser.parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in args.reports]
    print("\n".join(by_step([row for rows in found for row in rows]) if args.steps else to_llamacpp(found)))


def to_llamacpp(reports: Sequence[Any]) -> Iterator[str]:
    """Yields a line for each report: ratios to llama.cpp of the wheel / compiled there."""
    yield _line(
        "weights", "MB a pass reads", "`ar` decodes", "first token", "tool call under its schema", "resident, MB"
    )
    yield _line("---", *["--:"] * 5)
    for report in reports:
        about, rows = report["about"], _rows(report)
        yield _line(
            f"SmolLM2-135M, {weights_of(about)}",
            f"{report['floor']['weight_bytes'] / 1e6:,.0f}",
            " / ".join(ratios(rows, BASE, peer, "decode_tokens_per_s") for peer in PEERS),
            " / ".join(ratios(rows, peer, BASE, "prefill_seconds") for peer in PEERS),
            " / ".join(under_schema(rows, peer) for peer in PEERS),
            " / ".join(_megabytes(found) for found in (about, *(about["peers"].get(peer) for peer in PEERS))),
        )


def weights_of(about: Any) -> str:
    """Returns the type of the matrices, which our names of files end with: smollm2-q8_0.gguf."""
    return str(about["model"]).removesuffix(".gguf").rpartition("-")[2].upper()


def ratios(rows: Rows, over: str, under: str, field: str) -> str:
    """Returns the least and the largest ratio of a number of two contenders over step kinds; nothing without rows."""
    pairs = [(rows[over, kind], rows[under, kind]) for kind in KINDS if {(over, kind), (under, kind)} <= rows.keys()]
    found = [first[field] / second[field] for first, second in pairs if first[field] and second[field]]
    return f"{min(found):.2f}-{max(found):.2f}" if found else ""


def under_schema(rows: Rows, peer: str) -> str:
    """Returns how fast the best of our exact modes decodes a tool call next to a peer with its grammar."""
    kind = "tool_call"
    ours = [row["decode_tokens_per_s"] for (_, step), row in rows.items() if row["group"] == "schema" and step == kind]
    theirs = rows.get((f"{peer}+schema", kind))
    return f"{max(ours) / theirs['decode_tokens_per_s']:.2f}" if ours and theirs else ""


def by_step(rows: Sequence[Any]) -> Iterator[str]:
    """Yields a line for each source and step kind, and the means of tool calls and JSON, and of prose."""
    yield _line("source", "step", "n", "`ar`, tok/s", *(f"`{mode}`, x ar" for mode in AHEAD))
    yield _line("---", "---", *["--:"] * (2 + len(AHEAD)))
    cells = {(row["source"], row["step"], row["mode"]): row for row in rows}
    for source, step in dict.fromkeys((row["source"], row["step"]) for row in rows):
        ar = cells[source, step, BASE]
        found = [_next_to_ar(cells, source, step, mode) for mode in AHEAD]
        yield _line(source, step, str(ar["n"]), f"{ar['tokens_per_s']:,.0f}", *map(_two, found))
    for name, kinds in (("tool_call and json", ("tool_call", "json")), ("prose", ("prose",))):
        places = dict.fromkeys((row["source"], row["step"]) for row in rows if row["step"] in kinds)
        means = [_mean([_next_to_ar(cells, *place, mode) for place in places]) for mode in AHEAD]
        yield _line("mean", name, "", "", *map(_two, means))


def _next_to_ar(cells: dict[tuple[str, str, str], Any], source: str, step: str, mode: str) -> float | None:
    row, ar = cells.get((source, step, mode)), cells[source, step, BASE]
    if row is None or not row["tokens_per_s"] or not ar["tokens_per_s"]:
        return None
    return float(row["tokens_per_s"] / ar["tokens_per_s"])


def _mean(found: Sequence[float | None]) -> float | None:
    known = [each for each in found if each is not None]
    return fmean(known) if known else None


def _rows(report: Any) -> Rows:
    return {(row["contender"], row["step"]): row for row in report["rows"]}


def _megabytes(found: Any) -> str:
    size = (found or {}).get("resident_bytes")
    return f"{size / 1e6:,.0f}" if size else "?"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
