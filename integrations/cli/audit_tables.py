"""Audit records and problems as tables for a terminal. Knows records and rich. Does not read files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from trimode.policy.audit import CallRecord, Problem, Reported, Runtime, number_of

if TYPE_CHECKING:
    from trimode.policy.audit import CallDiff
    from trimode.policy.replay import Replay

_START: Final = ("#", "step", "kind", "mode")
_NUMBERS: Final = ("tokens", "passes", "TPF", "accepted", "forced", "repaired")
_END: Final = ("schema", "finish", "run", "reason")
_COLUMNS: Final[tuple[str, ...]] = (*_START, *_NUMBERS, *_END)
_WRAPPED: Final = {"step": 16, "mode": 16, "reason": 24}
"""Columns that a narrow terminal breaks into lines, and the width from which it does."""
_SPARE: Final = ("repaired", "forced", "TPF", "kind", "finish", "schema", "run", "reason", "accepted", "passes")
"""Columns that a narrow terminal leaves out, the first one first."""
_ENDING: Final = 8
"""Characters of a run's id that its column shows: the last ones, because ids of one minute may begin alike."""


def table(records: Iterable[CallRecord], width: int) -> tuple[Table, list[str]]:
    """Returns a row for each call, and the columns that `width` has no place for. The column run needs a call with one.

    accepted: accepted/drafted; passes exclude prefill; TPF: tokens per forward pass.
    """
    rows: list[dict[str, str]] = [
        dict(zip(_COLUMNS, _row(number, record), strict=True)) for number, record in enumerate(records, start=1)
    ]
    named = [name for name in _COLUMNS if name != "run" or any(row[name] for row in rows)]
    shown, left_out = _fitting(named, rows, width)
    view = Table(box=None, header_style="bold", pad_edge=False)
    for name in shown:
        justify: JustifyMethod = "right" if name in ("#", *_NUMBERS) else "left"
        wraps = name in _WRAPPED
        view.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for row in rows:
        # Text, because rich would read brackets in a step's name or reason as markup.
        view.add_row(*(Text(row[name]) for name in shown))
    return view, left_out


def _fitting(names: Sequence[str], rows: Sequence[Mapping[str, str]], width: int) -> tuple[list[str], list[str]]:
    """Returns the columns that fit, and those that are left out, the least needed ones first."""
    needed = {
        name: min(max(cell_len(text) for text in (name, *(row[name] for row in rows))), _WRAPPED.get(name, width))
        for name in names
    }
    shown, left_out = list(names), list[str]()
    for name in filter(names.__contains__, _SPARE):
        if sum(needed[each] + 2 for each in shown) - 2 <= width:
            break
        shown.remove(name)
        left_out.append(name)
    return shown, left_out


def decoded_by(records: Iterable[CallRecord]) -> list[str]:
    """Returns a line for each engine that decoded the calls, with whether a row is independent of the others in its
    pass."""
    return list(dict.fromkeys(_runtime(record.runtime) for record in records))


def problems_table(problems: Iterable[Problem]) -> Table:
    view = _folding("line", "call", "field", "expected", "found", "what")
    for problem in problems:
        cells = (problem.call[:8], problem.field, _short(problem.expected), _short(problem.found), problem.message)
        later = number_of(Path(problem.file)) > 1
        view.add_row(f"{problem.file}:{problem.line}" if later else str(problem.line), *(Text(cell) for cell in cells))
    return view


def replays_table(replays: Iterable[Replay]) -> Table:
    view = _folding("call", "outcome", "round", "what")
    for one in replays:
        at = "" if one.round is None else str(one.round)
        view.add_row(one.call[:8], one.outcome, at, Text(one.message))
    return view


def diffs_table(pairs: Iterable[CallDiff]) -> Table:
    """Returns a row for each difference; equal calls have none."""
    view = _folding("#", "step", "round", "field", "A", "B")
    for pair in pairs:
        at = "" if pair.round is None else str(pair.round)
        for one in pair.differences:
            cells = (pair.step, at, one.field, _short(one.a), _short(one.b))
            view.add_row(str(pair.number), *(Text(cell) for cell in cells))
    return view


def _folding(*names: str) -> Table:
    view = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        view.add_column(name, justify="right" if name in ("#", "line", "round") else "left", overflow="fold")
    return view


def _row(number: int, record: CallRecord) -> tuple[str, ...]:
    start = (str(number), record.step, record.kind, _mode(record))
    why = "; ".join((record.policy.reason, *record.notes))
    end = (_schema(record), record.error or record.finish_reason or "", _run(record), why)
    counts = record.counts
    if record.remote is not None:
        return (*start, *_reported(record.remote.reported), *end)
    if counts is None:
        return (*start, *("-",) * len(_NUMBERS), *end)
    speed = f"{counts.output_tokens / counts.forward_passes:.2f}" if counts.forward_passes else "-"
    accepted = f"{counts.accepted}/{counts.drafted}" if counts.drafted else "-"
    numbers = (counts.output_tokens, counts.forward_passes, speed, accepted, counts.forced, counts.repaired)
    return (*start, *map(str, numbers), *end)


def _reported(told: Reported) -> tuple[str, ...]:
    """Returns the cells of what a server reported, a dash for what it did not."""
    passes, tokens = told.forward_passes, told.output_tokens
    speed = f"{tokens / passes:.2f}" if tokens is not None and passes else "-"
    accepted = f"{told.accepted}/{told.drafted}" if told.drafted else "-"
    return *("-" if one is None else str(one) for one in (tokens, passes)), speed, accepted, "-", "-"


def _run(record: CallRecord) -> str:
    host = record.host
    return "" if host is None else (host.run or host.conversation or host.trace)[-_ENDING:]


def _runtime(run: Runtime) -> str:
    if run.device == "remote":
        return f"{run.model} on a server, {run.kernels}; exactness: {run.exactness}"
    rounded = f", weights in {run.quantize}" if run.quantize != "no" else ""
    adapter = f" with adapter {run.adapter} ({run.adapter_sha256[:12]})" if run.adapter else ""
    model = f"{run.model} ({run.model_sha256[:12]}){adapter}"
    where = f"{model} on {run.device}, {run.dtype}, {run.kernels}{rounded}"
    return f"{where}; rows agree: {run.exactness}"


def _mode(record: CallRecord) -> str:
    """Returns the modes that ran, in order; the planned one where none ran."""
    return " > ".join(dict.fromkeys(round_.mode for round_ in record.rounds)) or str(record.options.get("mode", ""))


def _schema(record: CallRecord) -> str:
    if record.schema_valid is None:
        return "-" if record.schema_sha256 is None else "unchecked"
    return "valid" if record.schema_valid else "INVALID"


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:37]}..."
