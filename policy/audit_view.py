"""Audit records and problems as tables for a terminal. Knows records and rich; reads no files, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from .check import Problem
from .record import CallRecord

_LEFT: Final = ("step", "kind", "mode", "schema", "finish", "reason")
_RIGHT: Final = ("#", "tokens", "passes", "TPF", "accepted", "forced", "repaired")
_ORDER: Final = (
    "#", "step", "kind", "mode", "tokens", "passes", "TPF", "accepted", "forced", "repaired", "schema", "finish", "reason",
)  # fmt: skip


def table(records: Iterable[CallRecord]) -> Table:
    """A row a call. accepted: accepted/drafted; passes leave prefill out; TPF: tokens per forward pass."""
    view = Table(box=None, header_style="bold", pad_edge=False)
    for name in _ORDER:
        view.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=name not in _LEFT)
    for number, record in enumerate(records, start=1):
        # Text, because rich would read brackets in a step's name or reason as markup.
        view.add_row(*(Text(cell) for cell in _row(number, record)))
    return view


def problems_table(problems: Iterable[Problem]) -> Table:
    view = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("line", "call", "field", "expected", "found", "what"):
        view.add_column(name, justify="right" if name == "line" else "left", overflow="fold")
    for problem in problems:
        cells = (problem.call[:8], problem.field, _short(problem.expected), _short(problem.found), problem.message)
        view.add_row(str(problem.line), *(Text(cell) for cell in cells))
    return view


def _row(number: int, record: CallRecord) -> tuple[str, ...]:
    start = (str(number), record.step, record.kind, _mode(record))
    why = "; ".join((record.policy.reason, *record.notes))
    end = (_schema(record), record.error or record.finish_reason or "", why)
    counts = record.counts
    if counts is None:
        return (*start, *("-",) * 6, *end)
    speed = f"{counts.output_tokens / counts.forward_passes:.2f}" if counts.forward_passes else "-"
    accepted = f"{counts.accepted}/{counts.drafted}" if counts.drafted else "-"
    numbers = (counts.output_tokens, counts.forward_passes, speed, accepted, counts.forced, counts.repaired)
    return (*start, *map(str, numbers), *end)


def _mode(record: CallRecord) -> str:
    """The modes that ran, in order; the one that was to run where none did."""
    return " > ".join(dict.fromkeys(made.mode for made in record.rounds)) or str(record.options.get("mode", ""))


def _schema(record: CallRecord) -> str:
    if record.schema_valid is None:
        return "-" if record.schema_sha256 is None else "unchecked"
    return "valid" if record.schema_valid else "INVALID"


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:37]}..."
