"""The parts of the page around its calls: the verdict on the file, totals, runs, and remarks on what is left out.

Knows records and problems. Does not know the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from trimode.policy.audit import SWITCH, AuditLine, CallRecord, Counts, Problem, plain

from .call_view import CallView, call_view, many, modes, seconds
from .timeline import timeline

PROBLEMS: Final = 50
"""Problems that are listed, at most."""
PAUSE_NS: Final = 60 * 10**9
"""Pause in nanoseconds that separates two runs, each of which has a timeline of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """A record and its line in the file."""

    line: int
    record: CallRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of `verify`. `problems`: (line, call, what, field, expected, found), the first PROBLEMS; `more`: the
    number of others; `lines`: all lines with a problem."""

    good: bool
    sentence: str
    problems: tuple[tuple[str, ...], ...]
    more: int
    lines: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Calls without a long pause between them. `breaks`: places of the axis, in per cent, where time is left out, with
    an explanation; `left_out`: how much in all, empty for none."""

    title: str
    length: str
    breaks: tuple[tuple[float, str], ...]
    left_out: str
    calls: tuple[CallView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The values that calls may be filtered by, each in the order in which it first occurs."""

    steps: tuple[str, ...]
    modes: tuple[str, ...]
    verdicts: tuple[str, ...]


def filters(runs: Sequence[Run]) -> Filters:
    """Returns the values that occur among the calls on the page."""
    calls = [call for run in runs for call in run.calls]
    return Filters(
        steps=tuple(dict.fromkeys(call.step for call in calls)),
        modes=tuple(dict.fromkeys(call.mode for call in calls)),
        verdicts=tuple(dict.fromkeys(call.verdict for call in calls)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Totals of one step kind in one mode; `share`: accepted drafts in per cent, None where nothing was drafted."""

    kind: str
    mode: str
    cells: tuple[str, ...]
    share: int | None


def verdict(lines: Sequence[AuditLine], problems: Sequence[Problem]) -> Verdict:
    named = [
        (str(one.line), one.call[:8], one.message, one.field, one.expected, one.found) for one in problems[:PROBLEMS]
    ]
    found = frozenset(problem.line for problem in problems)
    good = "1 call adds up" if len(lines) == 1 else f"{len(lines)} calls, every one adds up"
    return Verdict(
        good=not problems,
        sentence=f"{many(len(problems), 'problem')} in {many(len(found), 'line')}"
        if problems
        else f"{good}; chain unbroken",
        problems=tuple(tuple(plain(_short(cell)) for cell in row) for row in named),
        more=max(0, len(problems) - PROBLEMS),
        lines=found,
    )


def totals(records: Sequence[CallRecord]) -> Iterator[tuple[str, str]]:
    """Yields (value, name) of each figure at the top."""
    counts = [record.counts for record in records if record.counts]
    tokens, passes, drafted = (_sum(counts, name) for name in ("output_tokens", "forward_passes", "drafted"))
    checked = [record.schema_valid for record in records if record.schema_valid is not None]
    yield f"{len(records):,}", "call" if len(records) == 1 else "calls"
    yield f"{tokens:,}", "output tokens"
    yield f"{passes:,}", "forward passes"
    yield f"{tokens / passes:.2f}" if passes else "-", "tokens per pass"
    yield f"{100 * _sum(counts, 'accepted') / drafted:.0f} %" if drafted else "-", "drafts accepted"
    yield f"{_sum(counts, 'forced'):,}", "forced by schema"
    yield f"{sum(checked)}/{len(checked)}" if checked else "-", "schemas valid"
    yield seconds(sum(record.end_ns - record.start_ns for record in records) / 1e9), "in calls"


def groups(records: Sequence[CallRecord]) -> Iterator[Group]:
    """Yields the totals by step kind and mode, in the order of their first calls."""
    for kind, mode in dict.fromkeys((record.kind, " > ".join(modes(record))) for record in records):
        chosen = [record for record in records if (record.kind, " > ".join(modes(record))) == (kind, mode)]
        counts = [record.counts for record in chosen if record.counts]
        tokens, passes, accepted, drafted, forced, repaired = (
            _sum(counts, name)
            for name in ("output_tokens", "forward_passes", "accepted", "drafted", "forced", "repaired")
        )
        figures = (
            str(len(chosen)), str(tokens), str(passes), f"{tokens / passes:.2f}" if passes else "-",
            f"{accepted}/{drafted}" if drafted else "-", str(forced), str(repaired), _valid(chosen),
        )  # fmt: skip
        yield Group(kind=kind, mode=mode, cells=figures, share=100 * accepted // drafted if drafted else None)


def runs(calls: Sequence[Numbered], opened: frozenset[int], bad: frozenset[int]) -> Iterator[Run]:
    """Yields calls in the order of their start, split at pauses. `opened`: lines with details; `bad`: lines that do not
    verify."""
    run: list[Numbered] = []
    end = 0
    for call in sorted(calls, key=lambda call: call.record.start_ns):
        if run and call.record.start_ns - end > PAUSE_NS:
            yield _run(run, opened, bad)
            run = []
        run.append(call)
        end = max(end, call.record.end_ns)
    if run:
        yield _run(run, opened, bad)


def _run(calls: Sequence[Numbered], opened: frozenset[int], bad: frozenset[int]) -> Run:
    begin, end = min(call.record.start_ns for call in calls), max(call.record.end_ns for call in calls)
    scale = timeline([(call.record.start_ns, call.record.end_ns) for call in calls])
    return Run(
        title=datetime.fromtimestamp(begin // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        length=seconds((end - begin) / 1e9),
        breaks=tuple((at, f"{seconds(hidden / 1e9)} are not drawn here") for at, hidden in scale.breaks),
        left_out=seconds(scale.left_out / 1e9) if scale.breaks else "",
        calls=tuple(
            call_view(call.line, call.record, scale, detailed=call.line in opened, suspect=call.line in bad)
            for call in calls
        ),
    )


def remarks(readable: int, requested: int, calls: Sequence[Numbered], opened: frozenset[int]) -> Iterator[str]:
    """Yields sentences on what the page does not show, and why."""
    if len(calls) < requested:
        yield f"The page shows the first {len(calls):,} of {requested:,} calls. Others: --calls FIRST:LAST."
    if requested < readable:
        yield f"Chosen with --calls: {requested:,} of the {readable:,} calls of the file."
    closed = [call.line for call in calls if call.line not in opened]
    if closed:
        yield (
            f"From call {closed[0]} on, rows do not unfold: their tokens would make the page too large. "
            f"To see them: --calls {closed[0]}:{closed[-1]}."
        )
    silent = sum(not call.record.has_content for call in calls)
    if silent:
        which = "The calls hold" if silent == len(calls) else f"{silent} of the calls hold"
        yield (
            f"{which} no text, so each token is shown as the code of its origin only. Text is recorded where "
            f"{SWITCH} is SPAN_ONLY, EVENT_ONLY or SPAN_AND_EVENT, or the session was opened with content=True."
        )


def _short(cell: str) -> str:
    return cell if len(cell) <= 90 else f"{cell[:87]}..."


def _valid(records: Sequence[CallRecord]) -> str:
    constrained = [record for record in records if record.schema_sha256]
    return f"{sum(record.schema_valid is True for record in constrained)}/{len(constrained)}" if constrained else "-"


def _sum(counts: Sequence[Counts], name: str) -> int:
    return sum(int(getattr(one, name)) for one in counts)
