"""A benchmark's report as a table and sentences. Knows rich and the report's fields. Does not measure.

`markdown.py` has the tables of a document.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from .roofline import TRIES
from .rows import Report, Row

_COLUMNS = ("n", "tokens", "s/step", "prefill s", "decode tok/s", "x {}", "x {} decode", "ids = {}", "x ar")


def table(report: Report) -> Table:
    """Returns a table with a row for each system and step kind; `x hf` (or another base) and `x ar` are medians of
    paired ratios of whole calls, above 1 is faster."""
    view = Table(title="medians", title_justify="left")
    for name in ("step", "group", "contender"):
        view.add_column(name)
    for name in _COLUMNS:
        view.add_column(name.format(report.about["base"]), justify="right")
    previous = ""
    for row in report.rows:
        if previous and row.step != previous:
            view.add_section()
        previous = row.step
        view.add_row(row.step, row.group, row.contender.removesuffix("+schema"), *_cells(row))
    return view


def _cells(row: Row) -> Iterator[str]:
    yield str(row.n)
    yield f"{row.tokens:,}"
    yield f"{row.seconds:.4f}"
    yield f"{row.prefill_seconds:.4f}"
    yield _number(row.decode_tokens_per_s, 0)
    yield _number(row.speedup, 2)
    yield _number(row.decode_speedup, 2)
    compared = row.equal_ids is not None and row.different_ids is not None
    yield f"{row.equal_ids}/{row.n}" if compared else ""
    yield _number(row.speedup_ar, 2)


def lines(report: Report) -> Iterator[str]:
    """Yields sentences about the machine, the conditions and the roofline."""
    about, floor = report.about, report.floor
    yield (
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads; torch {about['torch']}, "
        f"transformers {about['transformers']}, trimode {about['trimode']}; {about['model']}, {about['dtype']}"
    )
    if about["hf_cache"]:
        yield f"hf ran with the {about['hf_cache']} cache, the faster one here; hf-lookup takes the dynamic one only"
    for name, peer in about.get("peers", {}).items():
        size = f", {peer['resident_bytes'] >> 20} MB at most" if peer.get("resident_bytes") else ""
        yield f"{name}: {peer['version']}, {peer['setting']}{size}"
    if about.get("resident_bytes"):
        yield f"trimode: {about['resident_bytes'] >> 20} MB at most, in a process of its own that decodes one step"
    for name, reason in report.not_run.items():
        yield f"not run: {name}: {reason}"
    for reason, count in report.skipped.items():
        yield f"not asked: {count} steps ({reason})"
    if (failed := floor.get("failed_pass_seconds")) is not None:
        yield (
            f"the probe of the machine failed: in {TRIES} tries its floor was {_ms(failed)} or more, above the "
            f"{_ms(floor['ar_pass_seconds'])} that a pass of ar took; no floor is given (was other work running?)"
        )
        return
    yield (
        f"measured: reads {_scaled(floor['own_size_bytes_per_s'])}B/s at the weights' size "
        f"({_scaled(floor['weight_bytes'])}B), {_scaled(floor['large_bytes_per_s'])}B/s from memory; "
        f"multiplies {_scaled(floor['flop_per_s'])}FLOP/s"
    )
    yield (
        f"derived: a pass cannot take less than {_ms(floor['derived_pass_seconds'])} "
        f"({_ms(floor['derived_pass_seconds_from_memory'])} from memory); its products take "
        f"{_ms(floor['derived_multiply_seconds_per_row'])} a row at the rate of a large product"
    )
    if floor["ar_pass_seconds"] is not None and floor["derived_ar_share_of_floor"] is not None:
        yield (
            f"measured: a pass of ar takes {_ms(floor['ar_pass_seconds'])}; "
            f"derived: {100 * floor['derived_ar_share_of_floor']:.0f} % of the floor"
        )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _scaled(value: float | None) -> str:
    return f"{value / 1e9:.1f} G" if value and value >= 1e9 else f"{(value or 0) / 1e6:.1f} M"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f} ms"
