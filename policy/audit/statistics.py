"""Statistics of an audit trail, for plots: acceptance by draft position, speed by mode, quality by threshold.

Knows records and their numbers only. Does not predict or decode. Choices are left out, because they are scored, not
decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from trimode.engine.result import EXACT

from .record import CallRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of one step kind in one mode: output tokens over the seconds after prefill."""

    kind: str
    mode: str
    calls: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The quality of diffusion calls at one threshold. Shares are 0..1, None where nothing can be compared.

    `compared`: calls for which the trail has a call of an exact mode with the same prompt, schema and sampling.
    `as_exact`: share of them with the same output; `begins_as`: average common prefix, as a part of the exact output's
    tokens, where content is kept. `valid`: share of schema-bound outputs that are valid.
    """

    threshold: float
    calls: int
    compared: int
    as_exact: float | None
    begins_as: float | None
    valid: float | None
    tokens_per_pass: float


def acceptance(records: Iterable[CallRecord]) -> dict[str, list[tuple[int, float]]]:
    """Returns by drafting mode, for each draft position from the first, how often it was verified and the share
    accepted.

    A position is verified where all before it were accepted. A draft that was accepted in full says nothing about the
    positions after its end.
    """
    tried: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for round_ in (round_ for record in records for round_ in record.rounds if round_.drafted and not round_.fills):
        for at in range(round_.accepted):
            tried[round_.mode][at][0] += 1
            tried[round_.mode][at][1] += 1
        if any(reason == "target" for _, reason in round_.rejected):
            tried[round_.mode][round_.accepted][0] += 1
    return {
        mode: [(places[at][0], places[at][1] / places[at][0]) for at in sorted(places)]
        for mode, places in tried.items()
    }


def speeds(records: Iterable[CallRecord]) -> list[Speed]:
    """Returns the speeds by step kind and by the mode that each call started in."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for record in _decoded(records):
        assert record.counts is not None
        found = sums[record.kind, str(record.options["mode"])]
        found[0] += 1
        found[1] += record.counts.output_tokens
        found[2] += record.counts.seconds - record.counts.prefill_seconds
    return [
        Speed(kind=kind, mode=mode, calls=int(calls), tokens_per_s=tokens / seconds)
        for (kind, mode), (calls, tokens, seconds) in sorted(sums.items())
        if seconds > 0
    ]


def qualities(records: Sequence[CallRecord]) -> list[Quality]:
    """Returns the qualities by threshold, the lowest first."""
    exact = {_question(record): record for record in _decoded(records) if record.options["mode"] in EXACT}
    groups: dict[float, list[CallRecord]] = defaultdict(list)
    for record in _decoded(records):
        threshold = record.options.get("threshold")
        if record.options["mode"] == "diffusion" and isinstance(threshold, float | int):
            groups[float(threshold)].append(record)
    return [_quality(threshold, groups[threshold], exact) for threshold in sorted(groups)]


def _quality(threshold: float, calls: Sequence[CallRecord], exact: dict[object, CallRecord]) -> Quality:
    pairs = [(record, exact[_question(record)]) for record in calls if _question(record) in exact]
    begins = [_begins(one.token_ids, other.token_ids) for one, other in pairs if one.token_ids and other.token_ids]
    valid = [bool(record.schema_valid) for record in calls if record.schema_sha256 is not None]
    counts = [record.counts for record in calls if record.counts is not None]
    return Quality(
        threshold=threshold,
        calls=len(calls),
        compared=len(pairs),
        as_exact=sum(one.output_sha256 == other.output_sha256 for one, other in pairs) / len(pairs) if pairs else None,
        begins_as=sum(begins) / len(begins) if begins else None,
        valid=sum(valid) / len(valid) if valid else None,
        tokens_per_pass=sum(each.output_tokens for each in counts)
        / max(sum(each.forward_passes for each in counts), 1),
    )


def _begins(tokens: Sequence[int], exact: Sequence[int]) -> float:
    """Returns the length of the common prefix as a part of `exact`."""
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(tokens, exact, strict=False))]) / len(exact)


def _question(record: CallRecord) -> object:
    """Returns the fields that determine an exact output."""
    return record.prompt_sha256, record.schema_sha256, record.sampling, record.max_tokens, record.stop, record.thinking


def _decoded(records: Iterable[CallRecord]) -> Iterable[CallRecord]:
    return (record for record in records if record.counts is not None and record.kind != "choice")
