"""A benchmark's report as tables in Markdown, for docs/benchmarks.md. Knows the report's fields. Does not measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .rows import Report, Row

_Cells = Callable[[Sequence[Row | None]], Iterator[str]]
"""The cells of one system from its rows, a step kind each."""


def in_markdown(report: Report) -> Iterator[str]:
    """Yields the command, tables to the base and one to `ar`, line by line."""
    base = report.about["base"]
    kinds = list(dict.fromkeys(row.step for row in report.rows))
    yield from ("```", report.about["command"], "```", "")
    listed = " / ".join(kinds)
    first = [f"{kind}: decode tok/s, x {base}" for kind in kinds]
    yield from _table(
        report.rows, kinds, ["contender", *first, f"whole call, x {base}: {listed}", f"ids = {base}"], _to_base
    )
    yield ""
    lengths = " / ".join(f"{kind} ({_prompt_tokens(report.rows, kind):,.0f} tokens)" for kind in kinds)
    yield from _table(
        report.rows, kinds, ["contender", f"first token, ms: {lengths}", f"x {base}: {listed}"], _until_first_token
    )
    yield ""
    yield from _table(
        report.rows, kinds, ["contender", f"whole call, x ar: {listed}", f"decode, x ar: {listed}"], _to_ar
    )
    yield ""


def _table(rows: Sequence[Row], kinds: Sequence[str], head: Sequence[str], cells: _Cells) -> Iterator[str]:
    yield _line(head)
    yield _line(["---", *["--:"] * (len(head) - 1)])
    for name in dict.fromkeys(row.contender for row in rows):
        own = {row.step: row for row in rows if row.contender == name}
        yield _line([f"`{name}`", *cells([own.get(kind) for kind in kinds])])


def _to_base(rows: Sequence[Row | None]) -> Iterator[str]:
    for row in rows:
        rate = None if row is None else row.decode_tokens_per_s
        yield "" if row is None or rate is None else f"{rate:,.1f}, {_number(row.decode_speedup, 2)}"
    yield " / ".join("" if row is None else _number(row.speedup, 2) for row in rows)
    compared = [row for row in rows if row is not None and row.equal_ids is not None]
    yield f"{sum(row.equal_ids or 0 for row in compared)}/{sum(row.n for row in compared)}" if compared else ""


def _until_first_token(rows: Sequence[Row | None]) -> Iterator[str]:
    yield " / ".join("" if row is None else f"{1000 * row.prefill_seconds:,.0f}" for row in rows)
    yield " / ".join("" if row is None else _number(row.prefill_speedup, 2) for row in rows)


def _prompt_tokens(rows: Sequence[Row], kind: str) -> float:
    """Returns the median length of the prompts of all steps of a kind."""
    return max((row for row in rows if row.step == kind), key=lambda row: row.n).prompt_tokens


def _to_ar(rows: Sequence[Row | None]) -> Iterator[str]:
    yield " / ".join("" if row is None else _number(row.speedup_ar, 2) for row in rows)
    yield " / ".join("" if row is None else _number(row.decode_speedup_ar, 2) for row in rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
