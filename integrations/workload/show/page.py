"""A study as one HTML page that needs no network, in the style of the audit report.

Knows studies, the template and the report's style. Does not know how anything is measured. Of prompts the page holds
the beginning of a family's system prompt, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from trimode.policy.audit import plain

from ...report.frame import Frame, asset, filled
from ..answering.targets import RECORDED
from ..scoring.intervals import Interval
from ..scoring.measures import Measure, compared
from ..study import Study, total
from . import words
from .plots import Axis, Mark, amounts, ratios, shares
from .tables import error_note, errors

_PACKAGE: Final = "trimode.integrations.workload.show"
SCORES: Final = ("names", "arguments", "fields", "prose")
"""Parts of agreement; the page shows those that some group has."""
SHAPES: Final = 6
"""Colours and shapes of runs; a seventh run looks like the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a plot. `line`: per cent at which the wanted quality stands, None for none."""

    name: str
    label: str
    marks: tuple[Mark, ...]
    line: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Estimates by group on one axis. `key`: the runs that occur, as number and name."""

    id: str
    title: str
    caption: str
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[Row, ...]
    key: tuple[tuple[int, str], ...]


def render(study: Study) -> str:
    """Returns the page."""
    good, word, sentence = verdict(study)
    frame = Frame(
        name=plain(", ".join(study.names)),
        kind="workload",
        first=("moves", "the recommendation"),
        good=good,
        word=word,
        sentence=sentence,
        totals=list(figures(study)),
        remarks=list(remarks(study)),
        style=Markup(f"{asset('report.css')}{asset('workload.css', _PACKAGE)}"),
        script=Markup(asset("shared.js")),
    )
    return filled(
        "workload.html",
        frame,
        _PACKAGE,
        study=study,
        words=words,
        moving=[(one, _calls(study, one.group)) for one in study.decisions if not one.stays],
        staying=[(one, _calls(study, one.group)) for one in study.decisions if one.stays],
        plots=[plot for plot in plots(study) if plot.rows],
        measures=list(by_group(study)),
        lacking=[*_counted(study.unusable), *_counted(study.lacks)],
        labels={group.name: plain(group.label) for group in study.groups},
        scored=[name for name in SCORES if any(getattr(one, name) is not None for one in study.measures)],
        priced=any(one.cost is not None for one in study.measures),
        compared=any(one.promise.against is not None for one in study.checks),
        RECORDED=RECORDED,
    )


def verdict(study: Study) -> tuple[bool, str, str]:
    """Returns whether all promises were kept, and the result as a word and a sentence."""
    moving = [one for one in study.decisions if not one.stays]
    what = f"{len(moving)} of {words.many(len(study.decisions), 'group')} can go to a measured run"
    if not study.checks:
        return True, "Measured", f"{what}; nothing was checked on held-out calls"
    broken = [one for one in study.checks if one.verdict == "broken"]
    kept = sum(one.verdict == "kept" for one in study.checks)
    told = f"{what}; {kept} of {words.many(len(study.checks), 'promise')} kept on held-out calls"
    return not broken, "✗ Promises broken" if broken else "✓ Promises kept", told


def figures(study: Study) -> Iterator[tuple[str, str]]:
    """Yields (value, name) of each figure at the top."""
    for count, what in ((study.calls, "recorded call"), (study.loops, "loop"), (len(study.groups), "group")):
        value, _, name = words.many(count, what).partition(" ")
        yield value, name
    yield f"{sum(not one.stays for one in study.decisions)}", "groups that can move"
    if study.checks:
        kept = sum(one.verdict == "kept" for one in study.checks)
        yield f"{kept} of {len(study.checks)}", "promises kept"
    if (gain := total(study)) is not None:
        yield f"{100 * (gain.value - 1):+.0f} %", f"{study.by}, all calls"
    else:
        yield f"{study.results:,}", "results on the sample"


def plots(study: Study) -> Iterator[Plot]:
    """Yields the plots, also those without rows."""
    yield _plot(study, "agreement", "Agreement with the recorded answer", _WANTED, shares(), _qualities(study))
    against = _against(study)
    yield _plot(
        study,
        "against",
        f"{study.by.capitalize()} against {study.baseline}",
        f"Left of the middle: {'less time' if study.by == 'seconds' else 'less cost'} for the same calls.",
        ratios([one for _, pairs in against for _, one in pairs]),
        against,
    )
    lasts = _times(study)
    axis = amounts([one for _, pairs in lasts for _, one in pairs], " s")
    yield _plot(study, "seconds", "Seconds to the last token", "Mean of the sample's calls.", axis, lasts)
    loops = [(one.run, one.seconds) for one in study.loop_times]
    yield _plot(
        study,
        "loops",
        "Seconds of one loop's calls",
        "Derived: calls of each group a loop, times their mean; without tools and people.",
        amounts([one for _, one in loops], " s"),
        [(run, [(run, one)]) for run, one in loops],
    )


_WANTED: Final = "The line is the quality that was asked for: a run meets it where its whole interval is right of it."
Pairs = Sequence[tuple[str, Interval]]
"""Runs with an estimate each."""


def _plot(study: Study, id: str, title: str, caption: str, axis: Axis, rows: Sequence[tuple[str, Pairs]]) -> Plot:
    numbers = {run: at % SHAPES for at, run in enumerate(study.runs)}
    wanted = {one.group: axis.place(one.wanted) for one in study.decisions} if id == "agreement" else {}
    labels = {group.name: plain(group.label) for group in study.groups}
    told = _spelled(id)
    found = tuple(
        Row(
            name=plain(name),
            label=labels.get(name, ""),
            marks=tuple(axis.mark(numbers.get(run, 0), one, f"{run}: {told(one)}") for run, one in pairs),
            line=wanted.get(name),
        )
        for name, pairs in rows
        if pairs
    )
    seen = {run for _, pairs in rows for run, _ in pairs}
    key = tuple((number, run) for run, number in numbers.items() if run in seen and id != "loops")
    return Plot(id=id, title=title, caption=caption, ticks=axis.ticks, rows=found, key=key)


def _spelled(id: str) -> Callable[[Interval | None], str]:
    return {"agreement": words.score, "against": words.change}.get(id, words.seconds)


def by_group(study: Study) -> Iterator[tuple[str, list[Measure]]]:
    """Yields each group that was measured, with its measures in the order of runs."""
    for group in study.groups:
        own = [one for one in study.measures if one.group == group.name]
        if own:
            yield group.name, own


def _qualities(study: Study) -> list[tuple[str, Pairs]]:
    return [(name, [(one.run, one.quality) for one in own if one.run != RECORDED]) for name, own in by_group(study)]


def _times(study: Study) -> list[tuple[str, Pairs]]:
    return [(name, [(one.run, one.last) for one in own if one.last is not None]) for name, own in by_group(study)]


def _against(study: Study) -> list[tuple[str, Pairs]]:
    found = list[tuple[str, Pairs]]()
    for name, own in by_group(study):
        base = study.of(name, study.baseline)
        others = [one for one in own if one.run != study.baseline]
        pairs = [(one.run, compared(one, base, study.by, study.level)) for one in others] if base is not None else []
        found.append((name, [(run, one) for run, one in pairs if one is not None]))
    return found


def remarks(study: Study) -> Iterator[str]:
    """Yields sentences on how sure the figures are, and on what they leave out."""
    note = error_note(study)
    yield f"{note[:1].upper()}{note[1:]}."
    if study.earlier:
        yield f"{study.earlier:,} of {words.many(study.results, 'result')} were measured by an earlier run."
    for run, error, count in errors(study):
        yield f"{run} did not answer {words.many(count, 'call')}: {error}."
    for what, count in study.left_out.items():
        yield f"Left out of the log: {what} ({count:,})."
    for name, count in study.ignored.items():
        yield f"Parameter {plain(name)} was not asked for again ({words.many(count, 'call')})."


def _counted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [*counts.items()]


def _calls(study: Study, name: str) -> int:
    return next(len(group.calls) for group in study.groups if group.name == name)
