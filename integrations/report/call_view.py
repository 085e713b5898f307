"""One recorded call as the page shows it: its row on the timeline, and the details below it.

Knows records. Does not know the template: every value is a plain string or number, which the template escapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from trimode.policy.audit import (
    CallRecord,
    Piece,
    RejectedDrafts,
    RemoteUsed,
    RoundRecord,
    has_token_text,
    pieces,
    plain,
    rejected,
)
from trimode.policy.telemetry import Part, parts_of

from .plot import Plot, plots
from .timeline import Timeline, timeline

ROUNDS: Final = 200
"""Rounds in the table of one call."""
BEGINNING: Final = 160
"""Characters of a call's text that its folded row shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A segment of the timeline, in per cent of its length. `cut`: some of its time is not drawn."""

    left: float
    width: float
    mode: str
    tip: str
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    number: int
    mode: str
    passes: int
    accepted: str
    origins: str
    text: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """The details of a call. `bars` span the call's own time; `segments`: (mode, text) for each run of one mode.

    `has_token_text`: whether the pieces are text, not provenance codes; `text`: the whole text, where it is kept but
    not by token. `left_out`: rounds that the table does not show.
    """

    pieces: tuple[Piece | RejectedDrafts, ...]
    has_token_text: bool
    text: str
    bars: tuple[Bar, ...]
    segments: tuple[tuple[str, str], ...]
    plots: tuple[Plot, ...]
    facts: tuple[tuple[str, str], ...]
    rows: tuple[RoundRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call on the page. `detail` is None where the page would become too large.

    `beginning`: of its text, on one line; empty where none is kept. `forced`: tokens forced by schema or budget;
    `switched`: whether it changed its mode on the way.
    """

    number: int
    step: str
    kind: str
    mode: str
    duration: str
    tokens: str
    tpf: str
    accepted: str
    verdict: str
    failed: bool
    reason: str
    notes: tuple[str, ...]
    beginning: str
    forced: int
    switched: bool
    bars: tuple[Bar, ...]
    detail: Detail | None


def call_view(number: int, record: CallRecord, scale: Timeline, *, detailed: bool, suspect: bool) -> CallView:
    """Returns the view of a call. `number`: its line in the file; `scale`: of its run.

    `detailed`: whether to include the details; `suspect`: whether its line does not verify.
    """
    counts = record.counts
    told = counts if record.remote is None else record.remote.reported
    invalid = record.schema_valid is False
    return CallView(
        number=number,
        step=plain(record.step),
        kind=record.kind,
        mode=" > ".join(modes(record)),
        duration=seconds((record.end_ns - record.start_ns) / 1e9),
        tokens=str(told.output_tokens) if told and told.output_tokens is not None else "-",
        tpf=f"{counts.output_tokens / counts.forward_passes:.2f}" if counts and counts.forward_passes else "-",
        accepted=f"{told.accepted}/{told.drafted}" if told and told.drafted else "-",
        verdict="does not verify" if suspect else _verdict(record),
        failed=suspect or invalid or record.error is not None,
        reason=plain(record.policy.reason),
        notes=tuple(map(plain, record.notes)),
        beginning=_beginning(record.text or ""),
        forced=counts.forced if counts else 0,
        switched=any(round_.switch for round_ in record.rounds) or len(modes(record)) > 1,
        bars=tuple(_bars(record, scale)),
        detail=_detail(record) if detailed else None,
    )


def modes(record: CallRecord) -> Sequence[str]:
    """Returns the modes that ran, in order; the planned one where none ran."""
    return tuple(dict.fromkeys(round_.mode for round_ in record.rounds)) or (str(record.options.get("mode", "")),)


def seconds(value: float) -> str:
    """Formats a duration."""
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _verdict(record: CallRecord) -> str:
    if record.error is not None:
        return plain(record.error.rsplit(".", 1)[-1])
    if record.schema_valid is not None:
        return "schema valid" if record.schema_valid else "schema INVALID"
    if record.finish_reason == "length":
        return "cut by max_tokens"
    return "schema unchecked" if record.schema_sha256 else record.finish_reason or "no result"


def _beginning(text: str) -> str:
    """Returns the text's first characters on one line."""
    line = plain(" ".join(text[: 4 * BEGINNING].split()))
    return line if len(line) <= BEGINNING and len(text) <= 4 * BEGINNING else f"{line[: BEGINNING - 1]}…"


def _bars(record: CallRecord, scale: Timeline) -> Iterator[Bar]:
    def bar(first: int, last: int, mode: str, tip: str) -> Bar:
        left, right = scale.place(first), scale.place(max(first, last))
        cut = any(left < at < right for at, _ in scale.breaks)
        shorter = " · drawn shorter than it was" if cut else ""
        return Bar(left=left, width=right - left, mode=mode, tip=f"{tip}{shorter}", cut=cut)

    parts = list(parts_of(record))
    first = parts[0].start_ns if parts else record.end_ns
    spent = seconds((first - record.start_ns) / 1e9)
    yield bar(record.start_ns, first, "prefill", f"queue and prefill · {spent}")
    for part in parts:
        yield bar(part.start_ns, part.end_ns, part.mode, f"{part.mode} · {_length(part)}")


def _length(part: Part) -> str:
    about = "about " if part.estimated else ""
    return f"{about}{seconds((part.end_ns - part.start_ns) / 1e9)}"


def _detail(record: CallRecord) -> Detail:
    numbered = list(enumerate(record.rounds))
    by_token = all(map(has_token_text, record.rounds))
    return Detail(
        pieces=tuple(piece for number, round_ in numbered for piece in pieces(number, round_)),
        has_token_text=by_token,
        text="" if by_token else plain(record.text or ""),
        bars=tuple(_bars(record, timeline([(record.start_ns, record.end_ns)]))),
        segments=tuple((part.mode, _segment(part)) for part in parts_of(record)),
        plots=tuple(plots(record.rounds)),
        facts=tuple((name, plain(value)) for name, value in _facts(record) if value),
        rows=tuple(_row(number, round_) for number, round_ in numbered[:ROUNDS]),
        left_out=max(0, len(numbered) - ROUNDS),
    )


def _segment(part: Part) -> str:
    tokens, passes = (
        sum(len(round_.origins) for round_ in part.rounds),
        sum(round_.forward_passes for round_ in part.rounds),
    )
    counts = [
        many(len(part.rounds), "round"), many(tokens, "token"), many(passes, "pass", "passes"), _length(part)
    ]  # fmt: skip
    return " · ".join(counts)


def many(count: int, one: str, more: str = "") -> str:
    """Returns `1 round`, `3 rounds`."""
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def _row(number: int, round_: RoundRecord) -> RoundRow:
    drafts = [f"{f'“{text}” ' if text else ''}{count} {why}" for text, why, count in rejected(round_)]
    return RoundRow(
        number=number,
        mode=round_.mode,
        passes=round_.forward_passes,
        accepted=f"{round_.accepted}/{round_.drafted}" if round_.drafted else "-",
        origins=plain(round_.origins),
        text=plain(round_.text or ""),
        rejected="; ".join(drafts),
    )


def _facts(record: CallRecord) -> Iterator[tuple[str, str]]:
    counts, sampling, run = record.counts, record.sampling, record.runtime
    yield "policy", f"{record.policy.name} {record.policy.version} ({record.policy.sha256[:12]})"
    yield "asked for", _listed(record.requested)
    yield "ran", _listed(record.options)
    yield "sampling", _listed({"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
                              "seed": sampling.seed})  # fmt: skip
    yield "finish", record.finish_reason or ""
    yield "error", ": ".join(part for part in (record.error, record.error_message) if part)
    if counts is not None:
        yield "prompt", f"{counts.prompt_tokens} tokens, {counts.cached_tokens} of them cached"
        yield "passes", f"{counts.forward_passes} of decoding, {counts.prefill_passes} of prefill"
        yield (
            "origins",
            (
                f"{counts.accepted} accepted, {counts.corrected - counts.repaired} chosen, "
                f"{counts.forced} forced, {counts.repaired} repaired"
            ),
        )
    if record.remote is not None:
        yield from _server(record.remote)
    yield "budget", f"{record.max_tokens} tokens"
    rounded = f", weights in {run.quantize}" if run.quantize != "no" else ""
    yield "model", f"{run.model} ({run.model_sha256[:12]}) on {run.device}, {run.dtype}, {run.kernels}{rounded}"
    yield "draft adapter", f"{run.adapter} ({run.adapter_sha256[:12]})" if run.adapter else ""
    yield "rows agree", run.exactness
    yield "schema", (record.schema_sha256 or "")[:12]
    yield "prompt digest", record.prompt_sha256[:12]
    yield "output digest", (record.output_sha256 or "")[:12]
    yield "host", str(record.host or "")
    yield "audit id", record.call


def _server(used: RemoteUsed) -> Iterator[tuple[str, str]]:
    """Yields who answered, what was tried, and what was reported; what was not is left out."""
    told = {name: value for name, value in asdict(used.reported).items() if value is not None}
    yield "server", f"pool {used.pool}, {used.kind} {used.version or ''} {used.method}, exactness: {used.exactness}"
    yield "attempts", "; ".join(f"{one.pool}: {one.outcome}" for one in used.attempts)
    yield "reported", _listed(told)


def _listed(values: object) -> str:
    pairs = values.items() if isinstance(values, dict) else ()
    return ", ".join(f"{name} {value}" for name, value in pairs)
