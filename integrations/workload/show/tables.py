"""A study as tables and sentences for the terminal.

Knows rich and studies. Does not know files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from ..answering.targets import RECORDED
from ..promises import Checked
from ..scoring.intervals import LEVEL
from ..study import Study, total
from . import words


def measures_table(study: Study) -> Table:
    """Returns the measures of every group under every run."""
    priced = any(one.cost is not None for one in study.measures)
    columns = [
        "valid", "agreement", "names", "arguments", "fields", "prose", "first s", "last s", "tokens/pass",
        *(["1,000 calls"] if priced else []),
    ]  # fmt: skip
    view = _table("measured on the sample", ["group", "run", "calls"], columns)
    for one in study.measures:
        failed = f" ({sum(one.errors.values())} failed)" if one.errors else ""
        cells = [
            words.percent(one.valid), words.score(one.quality), words.share(one.names), words.share(one.arguments),
            words.share(one.fields), words.plain(one.prose), words.seconds(one.first), words.seconds(one.last),
            words.plain(one.per_pass), *([words.money(one.cost, study.plan.prices.currency)] if priced else []),
        ]  # fmt: skip
        view.add_row(*(Text(cell) for cell in (one.group, one.run, f"{one.n}{failed}", *cells)))
    return view


def decisions_table(study: Study) -> Table:
    """Returns where each group goes, and why."""
    view = _table("recommended", ["group", "calls", "to", "why"], [])
    calls = {group.name: len(group.calls) for group in study.groups}
    for one in study.decisions:
        to = "stays" if one.stays else one.run
        view.add_row(*(Text(cell) for cell in (one.group, f"{calls[one.group]:,}", to, one.reason)))
    return view


def checks_table(checks: Sequence[Checked]) -> Table:
    """Returns promises beside what held-out calls gave."""
    columns = ["calls", "agreement promised", "measured", "difference", "against baseline promised", "measured"]
    view = _table("promises on held-out calls", ["group", "run", "verdict"], columns)
    for one in checks:
        promise = one.promise
        cells = [
            "" if one.quality is None else str(one.quality.n), words.score(promise.quality), words.score(one.quality),
            words.points(one.quality_off), words.change(promise.against), words.change(one.against),
        ]  # fmt: skip
        verdict = f"{one.verdict}: {one.why}" if one.why else one.verdict
        view.add_row(*(Text(cell) for cell in (promise.group, promise.run, verdict, *cells)))
    return view


def sentences(study: Study) -> Iterator[str]:
    """Yields what the tables leave out, the result first."""
    yield headline(study)
    yield error_note(study)
    for title, counts in (
        ("not in the log", study.lacks), ("not measured", study.unusable), ("left out", study.left_out),
        ("parameters not asked for again", study.ignored),
    ):  # fmt: skip
        for what, count in counts.items():
            yield (
                f"{title}: {what} ({count:,} of {study.calls:,} calls)"
                if title != "left out"
                else (f"{title}: {what} ({count:,})")
            )
    for run, error, count in errors(study):
        yield f"failed: {run}: {error} ({words.many(count, 'call')})"
    for one in study.loop_times:
        missing = f", without {', '.join(one.left_out)}" if one.left_out else ""
        yield f"calls of one loop, {one.run}: {words.seconds(one.seconds)} s (derived{missing})"
    if study.earlier:
        yield f"{study.earlier:,} of {words.many(study.results, 'result')} were measured by an earlier run"


def errors(study: Study) -> Iterator[tuple[str, str, int]]:
    """Yields (run, class of error, calls) of calls that a run did not answer."""
    found = Counter(
        (one.run, error) for one in study.measures for error in one.errors for _ in range(one.errors[error])
    )
    for (run, error), count in found.items():
        yield run, error, count


def headline(study: Study) -> str:
    """Returns the result in one sentence."""
    moved = [one for one in study.decisions if not one.stays]
    kept = sum(one.verdict == "kept" for one in study.checks)
    parts = [f"{len(moved)} of {words.many(len(study.decisions), 'group')} can move"]
    if (gain := total(study)) is not None:
        parts.append(f"{study.by} of all calls against {study.baseline}: {words.change(gain)}")
    if study.checks:
        parts.append(f"on held-out calls {kept} of {words.many(len(study.checks), 'promise')} kept")
    return "; ".join(parts)


def error_note(study: Study) -> str:
    """Returns what the intervals mean."""
    runs = len([run for run in study.runs if run != RECORDED])
    together = f", {runs} runs together" if runs > 1 else ""
    return (
        f"in brackets: {100 * LEVEL:.0f} % limits of the sampling error{together}, calls of one loop not taken for "
        f"independent; gains are against {study.baseline}{_because(study)}, decided by {study.by}; "
        f"seed {study.plan.draw.seed}"
    )


def _because(study: Study) -> str:
    if study.baseline == RECORDED or study.plan.baseline is not None:
        return ""
    given = RECORDED in study.runs
    return " (the log does not say what it took itself)" if given else f" (the first run, because {RECORDED} is none)"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    view = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in left:
        view.add_column(column, overflow="fold")
    for column in right:
        view.add_column(column, justify="right")
    return view
