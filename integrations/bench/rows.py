"""From readings to rows: medians, ratios against Hugging Face `generate`, equal ids, and how near the floor `ar` comes.

Knows readings and arithmetic. Does not know who made the readings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from . import roofline as floor
from .contenders import Contender, Group, Question, Reading

BASE: Final = "hf"
Readings = dict[str, dict[int, list[Reading]]]
"""By contender and number of the question: its readings, a round each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender on one step kind. Times are medians over steps of each step's median over rounds.

    `speedup`: median over steps of seconds(hf) / seconds; `speedup_sum`: the ratio of the sums; `decode_speedup`: the
    ratio of `decode_tokens_per_s`. `equal_ids`, `different_ids`: steps whose ids are hf's, and others. None: no answer.
    """

    contender: str
    group: Group
    step: str
    n: int
    rounds: int
    prompt_tokens: float
    tokens: int
    passes: int
    seconds: float
    prefill_seconds: float
    decode_tokens_per_s: float | None
    speedup: float | None
    speedup_sum: float | None
    decode_speedup: float | None
    equal_ids: int | None
    different_ids: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `--json` holds."""

    about: dict[str, Any]
    floor: dict[str, float | None]
    skipped: dict[str, int]
    rows: list[Row]

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def row(contender: Contender, kind: str, asked: Sequence[Question], readings: Readings) -> Row | None:
    """None where the contender takes no question of that kind."""
    mine = {at: runs for at, runs in readings[contender.name].items() if asked[at].kind == kind}
    if not mine:
        return None
    base = {at: runs for at, runs in readings.get(BASE, {}).items() if at in mine}
    seconds, rate = _middle(mine, "seconds"), _rate(mine)
    against = _middle(base, "seconds")
    base_rate = _rate(base)
    equal = sum(all(reading.ids == runs[0].ids for reading in mine[at]) for at, runs in base.items())
    compared = bool(base) and contender.group != "schema" and contender.name != BASE
    return Row(
        contender=contender.name,
        group=contender.group,
        step=kind,
        n=len(mine),
        rounds=len(next(iter(mine.values()))),
        prompt_tokens=median(len(asked[at].prompt) for at in mine),
        tokens=sum(len(runs[0].ids) for runs in mine.values()),
        passes=sum(runs[0].passes for runs in mine.values()),
        seconds=median(seconds.values()),
        prefill_seconds=median(_middle(mine, "prefill_seconds").values()),
        decode_tokens_per_s=rate,
        speedup=median(against[at] / seconds[at] for at in base) if base else None,
        speedup_sum=sum(against.values()) / sum(seconds.values()) if base else None,
        decode_speedup=rate / base_rate if rate and base_rate else None,
        equal_ids=equal if compared else None,
        different_ids=len(base) - equal if compared else None,
    )


def _middle(runs: dict[int, list[Reading]], name: str) -> dict[int, float]:
    """By question: the median over rounds of one of a reading's times."""
    return {at: median(getattr(reading, name) for reading in readings) for at, readings in runs.items()}


def _rate(runs: dict[int, list[Reading]]) -> float | None:
    """Tokens a second after the prefill pass, over all questions that got any there."""
    chosen = {at: readings for at, readings in runs.items() if readings[0].decode_tokens}
    seconds = sum(_middle(chosen, "decode_seconds").values())
    return sum(readings[0].decode_tokens for readings in chosen.values()) / seconds if seconds else None


def bounds(machine: floor.Floor, readings: Readings) -> dict[str, float | None]:
    """Measured rates, the floors derived from them, and the share of the floor that a pass of `ar` reaches."""
    runs = {at: found for at, found in readings.get("ar", {}).items() if found[0].passes}
    passes = sum(found[0].passes for found in runs.values())
    seconds = sum(_middle(runs, "decode_seconds").values()) / passes if passes else None
    return {
        **asdict(machine),
        "derived_pass_seconds": machine.pass_seconds,
        "derived_pass_seconds_from_memory": machine.pass_seconds_from_memory,
        "derived_multiply_seconds_per_row": machine.multiply_seconds_per_row,
        "ar_pass_seconds": seconds,
        "derived_ar_share_of_floor": machine.pass_seconds / seconds if seconds else None,
    }
