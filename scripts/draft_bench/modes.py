"""Modes side by side: passes, accepted tokens, speed, and whether each writes the tokens of `ar`.

Knows calls and results. Does not know how a mode decodes. Every step is decoded by all variants in turn, at each
temperature, so that they meet the same machine; which one begins changes from step to step. A pass that is not counted
reads the prompt before, so that every variant finds it in the prefix cache. Sources and kinds take turns, too: stopped
at any time, what was counted is spread over all of them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.result import Result

from .steps import KINDS, askable, in_mode

STRUCTURED = ("tool_call", "json")


class Place(NamedTuple):
    """What a row counts."""

    source: str
    kind: str
    temperature: float
    variant: str


@dataclass(slots=True)
class Counts:
    """Counts of one place. `drafts`: rounds that drafted something; `accepted`: without tokens that a schema forced;
    `seconds` after prefill, `call_seconds` with it; `rates`, `ratios` and `call_ratios` of each step: tokens/s, and how
    many times those of `ar` on the same step, after prefill and of the whole call. `differ`: outputs unlike that of
    `ar`."""

    steps: int = 0
    tokens: int = 0
    passes: int = 0
    drafts: int = 0
    accepted: int = 0
    differ: int = 0
    seconds: float = 0.0
    call_seconds: float = 0.0
    rates: list[float] = field(default_factory=list[float])
    ratios: list[float] = field(default_factory=list[float])
    call_ratios: list[float] = field(default_factory=list[float])

    def add(self, mine: Result, ar: Result) -> None:
        stats, rate, base = mine.stats, mine.stats.tokens_per_second, ar.stats.tokens_per_second
        self.steps += 1
        self.tokens += stats.output_tokens
        self.passes += stats.forward_passes
        self.drafts += sum(round_.drafted > 0 for round_ in mine.trace)
        self.accepted += stats.accepted
        self.differ += mine.token_ids != ar.token_ids
        self.seconds += stats.seconds - stats.prefill_seconds
        self.call_seconds += stats.seconds
        self.rates += [rate] if rate else []
        self.ratios += [rate / base] if rate and base else []
        self.call_ratios.append(ar.stats.seconds / stats.seconds)

    def merge(self, other: Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "passes": self.passes,
            "tpf": _share(self.tokens, self.passes),
            "drafts": self.drafts,
            "accepted": self.accepted,
            "accepted_a_draft": _share(self.accepted, self.drafts),
            "differ": self.differ,
            "tokens_per_s": _share(self.tokens, self.seconds),
            "median_tokens_per_s": _median(self.rates),
            "median_to_ar": _median(self.ratios),
            "call_tokens_per_s": _share(self.tokens, self.call_seconds),
            "median_call_to_ar": _median(self.call_ratios),
        }


class Turn(NamedTuple):
    """One step of one source and kind."""

    source: str
    kind: str
    call: Call


Found = dict[Place, Counts]


def turns(engine: Engine, files: Sequence[Path], steps: int, free: bool = False) -> Iterator[Turn]:
    """At most `steps` steps of each source and kind, one of each in turn."""
    cells = [
        [Turn(_source(path), kind, call) for call in itertools.islice(askable(engine, [path], kind, kind, free), steps)]
        for path, kind in itertools.product(files, KINDS)
    ]
    for group in itertools.zip_longest(*cells):
        yield from (turn for turn in group if turn is not None)


def compare(engine: Engine, turn: Turn, variants: Sequence[str], temperatures: Sequence[float], number: int) -> Found:
    """Decodes a step by each variant at each temperature; `number` of the step, by which the order changes."""
    found, first = Found(), number % len(variants)
    _read(engine, turn.call)
    for temperature in temperatures:
        order = [*variants[first:], *variants[:first]]
        results = {word: engine.run(in_mode(turn.call, word, temperature)) for word in order}
        for word in variants:
            counts = found.setdefault(Place(turn.source, turn.kind, temperature, word), Counts())
            counts.add(results[word], results["ar"])
    return found


def _read(engine: Engine, call: Call) -> None:
    """Takes the prompt into the prefix cache."""
    request: Any = engine.translator.request(call)
    engine.tokens.decode(replace(request, constraint=None, max_tokens=1))


@dataclass(slots=True)
class Comparison:
    """All counts so far, and the seconds that they took."""

    variants: Sequence[str]
    temperatures: Sequence[float]
    counts: Found = field(default_factory=Found)
    began: float = field(default_factory=time.monotonic)

    def add(self, found: Found) -> None:
        for place, counts in found.items():
            self.counts.setdefault(place, Counts()).merge(counts)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def total(self, temperature: float, word: str, kinds: Sequence[str] = KINDS) -> Counts:
        """Counts over all sources and some kinds."""
        total = Counts()
        for place, counts in self.counts.items():
            if place.kind in kinds and (place.temperature, place.variant) == (temperature, word):
                total.merge(counts)
        return total

    def report(self) -> dict[str, Any]:
        rows = [{**place._asdict(), **counts.as_dict()} for place, counts in sorted(self.counts.items())]
        every = list(itertools.product(self.temperatures, self.variants))
        totals = [
            {"kinds": list(kinds), "temperature": t, "variant": word, **self.total(t, word, kinds).as_dict()}
            for kinds in (STRUCTURED, KINDS)
            for t, word in every
        ]
        compared = [self.total(t, word) for t, word in every if word != "ar"]
        return {
            "seconds": round(self.seconds, 1),
            "compared_tokens": sum(one.tokens for one in compared),
            "differ": sum(one.differ for one in compared),
            "totals": totals,
            "rows": rows,
        }


def _source(path: Path) -> str:
    return path.name.partition(".")[0]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
