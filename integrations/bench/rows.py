"""Rows from readings: medians, ratios against Hugging Face `generate`, equal ids, and the part of the roofline that
`ar` reaches.

Knows readings and arithmetic. Does not know the systems that the readings come from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from . import roofline
from .systems import Group, Question, Reading, SystemUnderTest

BASE: Final = "hf"
Readings = dict[str, dict[int, list[Reading]]]
"""Readings by name of the system and index of the question, one for each round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system under test (`contender`, a JSON key) on one step kind. Times are medians over steps of each step's
    median over rounds.

    `speedup`: median over steps of seconds(base) / seconds; `speedup_sum`: the ratio of the sums; `prefill_speedup`: as
    `speedup`, until the first token; `decode_speedup`: the ratio of `decode_tokens_per_s`; `speedup_ar`,
    `decode_speedup_ar`: the same to our `ar` without a schema, or with one where this system has one. `equal_ids`,
    `different_ids`: steps whose ids equal those of the base, and others. None where a number does not apply.
    """

    contender: str
    group: Group
    step: str
    n: int
    rounds: int
    prompt_tokens: float
    tokens: int
    passes: int | None
    seconds: float
    prefill_seconds: float
    decode_tokens_per_s: float | None
    speedup: float | None
    speedup_sum: float | None
    prefill_speedup: float | None
    decode_speedup: float | None
    speedup_ar: float | None
    decode_speedup_ar: float | None
    equal_ids: int | None
    different_ids: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `--json` writes. `floor` (a JSON key): the roofline. `not_run`: systems to the reason why they
    ran no step, or some not."""

    about: dict[str, Any]
    floor: dict[str, float | None]
    skipped: dict[str, int]
    rows: list[Row]
    not_run: dict[str, str] = field(default_factory=dict[str, str])

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def row(
    system: SystemUnderTest, kind: str, questions: Sequence[Question], readings: Readings, base: str = BASE
) -> Row | None:
    """Returns the row of a system on one step kind, or None where it ran no question of that kind."""
    own = _of_kind(readings.get(system.name, {}), kind, questions)
    if not own:
        return None
    theirs, ar = readings.get(base, {}), readings.get("ar+schema" if system.constrained else "ar", {})
    seconds = _median(own, "seconds")
    equal = _equal(own, theirs)
    compared = bool(own.keys() & theirs.keys()) and not system.constrained and system.name != base
    passes = [runs[0].passes for runs in own.values()]
    return Row(
        contender=system.name,
        group=system.group,
        step=kind,
        n=len(own),
        rounds=len(next(iter(own.values()))),
        prompt_tokens=median(len(questions[at].prompt) for at in own),
        tokens=sum(len(runs[0].ids) for runs in own.values()),
        passes=None if None in passes else sum(count or 0 for count in passes),
        seconds=median(seconds.values()),
        prefill_seconds=median(_median(own, "prefill_seconds").values()),
        decode_tokens_per_s=_rate(own),
        speedup=_paired(theirs, own),
        speedup_sum=_summed(theirs, own),
        prefill_speedup=_paired(theirs, own, "prefill_seconds"),
        decode_speedup=_rates(own, theirs),
        speedup_ar=_paired(ar, own),
        decode_speedup_ar=_rates(own, ar),
        equal_ids=equal if compared else None,
        different_ids=len(own.keys() & theirs.keys()) - equal if compared else None,
    )


Runs = dict[int, list[Reading]]


def _of_kind(runs: Runs, kind: str, questions: Sequence[Question]) -> Runs:
    return {at: found for at, found in runs.items() if questions[at].kind == kind}


def _equal(own: Runs, base: Runs) -> int:
    """Returns how many questions have the ids of the base in every round."""
    return sum(all(reading.ids == base[at][0].ids for reading in runs) for at, runs in own.items() if at in base)


def _both(base: Runs, own: Runs) -> tuple[Runs, Runs]:
    """Returns the readings of questions that both ran."""
    same = own.keys() & base.keys()
    return {at: base[at] for at in own if at in same}, {at: own[at] for at in own if at in same}


def _paired(base: Runs, own: Runs, name: str = "seconds") -> float | None:
    """Returns the median over questions of the base's seconds over our own."""
    theirs, ours = (_median(runs, name) for runs in _both(base, own))
    return median(theirs[at] / ours[at] for at in ours) if ours else None


def _summed(base: Runs, own: Runs) -> float | None:
    theirs, ours = (_median(runs, "seconds") for runs in _both(base, own))
    return sum(theirs.values()) / sum(ours.values()) if ours else None


def _rates(own: Runs, base: Runs) -> float | None:
    """Returns the ratio of decode tokens a second, on questions that both ran."""
    theirs, ours = (_rate(runs) for runs in _both(base, own))
    return ours / theirs if ours and theirs else None


def _median(runs: dict[int, list[Reading]], name: str) -> dict[int, float]:
    """Returns for each question the median over rounds of one of a reading's times."""
    return {at: median(getattr(reading, name) for reading in readings) for at, readings in runs.items()}


def _rate(runs: dict[int, list[Reading]]) -> float | None:
    """Returns tokens a second after the prefill pass, over all questions with tokens after it."""
    chosen = {at: readings for at, readings in runs.items() if readings[0].decode_tokens}
    seconds = sum(_median(chosen, "decode_seconds").values())
    return sum(readings[0].decode_tokens for readings in chosen.values()) / seconds if seconds else None


def pass_seconds(readings: Readings) -> float | None:
    """Returns the seconds of a pass of `ar`, None where none was measured."""
    runs = {at: found for at, found in readings.get("ar", {}).items() if found[0].passes}
    passes = sum(found[0].passes or 0 for found in runs.values())
    return sum(_median(runs, "decode_seconds").values()) / passes if passes else None


def bounds(machine: roofline.Roofline, readings: Readings, holds: bool = True) -> dict[str, float | None]:
    """Returns measured rates, the bounds derived from them, and the bound of a pass as a part of the seconds that `ar`
    needs. A bound that a measured pass contradicts (not `holds`) is left out, with the rate that it rests on; what it
    would have been is `failed_pass_seconds`."""
    seconds = pass_seconds(readings)
    if not holds:
        return {
            **asdict(machine),
            "own_size_bytes_per_s": None,
            "derived_pass_seconds": None,
            "derived_pass_seconds_from_memory": None,
            "derived_multiply_seconds_per_row": machine.multiply_seconds_per_row,
            "ar_pass_seconds": seconds,
            "derived_ar_share_of_floor": None,
            "failed_pass_seconds": machine.pass_seconds,
        }
    return {
        **asdict(machine),
        "derived_pass_seconds": machine.pass_seconds,
        "derived_pass_seconds_from_memory": machine.pass_seconds_from_memory,
        "derived_multiply_seconds_per_row": machine.multiply_seconds_per_row,
        "ar_pass_seconds": seconds,
        "derived_ar_share_of_floor": machine.pass_seconds / seconds if seconds else None,
    }
