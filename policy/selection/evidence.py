"""Counts of past calls: one call's counts, and exponentially decayed sums over many.

Knows counts by mode and draft position. Sums decay with each new call, so that they follow a workload that changes.
Does not know which step the calls belong to, or what is concluded from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

POSITIONS: Final = 31
"""Draft positions for which acceptance is counted."""
SURPRISE: Final = 2.5
"""Standard errors between a call's acceptance and the expected one, beyond which the call contradicts older ones."""
CONTRADICTED: Final = 0.2
"""Factor by which the counts of contradicted older calls are reduced."""

Reading = tuple[str, float, float]
"""A measured slowdown: what it belongs to (a mode, or a name of `posterior`), its log, and its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The counts of one finished call. A decision is an unforced token: the grammar allowed more than one.

    `drafts`: (mode, accepted draft decisions, whether the next one was not) of each round that drafted. `lookups`:
    rounds of lookup_spec; `matches`: those of them that drafted; `copies`: tokens that they drafted; `ends`: their
    drafts that ended before the block did. `passes`: forward
    passes of decoding; `rows`: the call's own rows in them. `paces`: for each mode that ran, the log of its measured
    seconds over those that the cost model gives for the same passes, other calls' rows included; the weight is the
    mode's part of the passes.
    """

    decisions: int
    forced: int
    prompt: int
    prefilled: int
    others: int = 0
    drafts: tuple[tuple[str, int, bool], ...] = ()
    fills: int = 0
    denoises: int = 0
    lookups: int = 0
    matches: int = 0
    copies: int = 0
    ends: int = 0
    passes: int = 0
    rows: int = 0
    paces: tuple[Reading, ...] = ()


class RoundCounts(Protocol):
    """What is counted of a round, whether it is the engine's or read from a record."""

    @property
    def mode(self) -> str: ...
    @property
    def origins(self) -> str: ...
    @property
    def drafted(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def rejected(self) -> Sequence[Any]: ...
    @property
    def fills(self) -> Sequence[int]: ...


def observed(rounds: Iterable[RoundCounts], block_length: int) -> dict[str, Any]:
    """Returns the fields of an `Observation` that follow from the rounds of a result or of a record.

    `block_length`: of the call, because a copied draft may be shorter than its block allows.
    """
    decisions = forced = fills = denoises = lookups = matches = copies = ends = 0
    drafts: list[tuple[str, int, bool]] = []
    for round_ in rounds:
        undecided = round_.origins.count("f") + round_.origins.count("b")  # forced by the grammar or by the budget
        forced += undecided
        decisions += len(round_.origins) - undecided
        early = False
        if round_.mode == "lookup_spec":
            early = round_.drafted > 0 and round_.drafted + round_.origins.count("f") < block_length - 1
            lookups, matches, copies = lookups + 1, matches + (round_.drafted > 0), copies + round_.drafted
            ends += early
        if round_.fills:
            fills, denoises = fills + sum(round_.fills), denoises + len(round_.fills)
        elif round_.drafted:
            # A draft that ends early, and before the output does, lacks the next token.
            lacking = early and round_.origins.endswith("c")
            refused = lacking or any(_reason(rejected) == "target" for rejected in round_.rejected)
            drafts.append((round_.mode, round_.accepted, refused))
    return {
        "decisions": decisions, "forced": forced, "drafts": tuple(drafts), "fills": fills, "denoises": denoises,
        "lookups": lookups, "matches": matches, "copies": copies,
        "ends": ends,
    }  # fmt: skip


def _reason(rejected: Any) -> str:
    return str(rejected[1] if isinstance(rejected, tuple) else rejected.reason)


@dataclass(slots=True)
class Evidence:
    """Decayed sums over calls. `trials`, `hits`: drafted and accepted decisions by drafting mode and draft position.
    `pace`: (weight, weighted sum) of the log slowdown against the cost model, by mode.

    `total`: expected seconds of all plans; `spent`: seconds that exploring cost. These two do not decay.
    """

    calls: float = 0.0
    decisions: float = 0.0
    forced: float = 0.0
    prompt: float = 0.0
    prefilled: float = 0.0
    others: float = 0.0
    fills: float = 0.0
    denoises: float = 0.0
    lookups: float = 0.0
    matches: float = 0.0
    copies: float = 0.0
    ends: float = 0.0
    passes: float = 0.0
    rows: float = 0.0
    total: float = 0.0
    spent: float = 0.0
    trials: dict[str, list[float]] = field(default_factory=dict)
    hits: dict[str, list[float]] = field(default_factory=dict)
    pace: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seen: Observation, fading: float, paces: Sequence[Reading]) -> None:
        self._fade(fading, {mode for mode, *_ in (*seen.drafts, *paces)})
        self.calls += 1
        for name in _SUMS[1:]:
            setattr(self, name, getattr(self, name) + getattr(seen, name))
        for mode in {mode for mode, *_ in seen.drafts}:
            if self._contradicted(mode, seen):
                for table in (self.trials, self.hits):
                    table[mode] = [value * CONTRADICTED for value in table[mode]]
        for mode, accepted, refused in seen.drafts:
            trials = self.trials.setdefault(mode, [])
            hits = self.hits.setdefault(mode, [])
            tried = min(accepted + refused, POSITIONS)
            trials += [0.0] * (tried - len(trials))
            hits += [0.0] * (tried - len(hits))
            for at in range(tried):
                trials[at] += 1
                hits[at] += at < accepted
        for reading in paces:
            self.add_reading(*reading)

    def add_reading(self, name: str, value: float, part: float) -> None:
        """Adds one reading of a log slowdown, with weight `part`."""
        weight, total = self.pace.get(name, (0.0, 0.0))
        self.pace[name] = [weight + part, total + part * value]

    def _contradicted(self, mode: str, seen: Observation) -> bool:
        """Returns whether a call's acceptance is too unlikely under the counts so far (a test at SURPRISE errors)."""
        known = sum(self.trials.get(mode, ()))
        drafts = [(accepted, accepted + refused) for drafted_in, accepted, refused in seen.drafts if drafted_in == mode]
        hits, tried = sum(accepted for accepted, _ in drafts), sum(each for _, each in drafts)
        if not known or not tried:
            return False
        chance = (sum(self.hits[mode]) + 1) / (known + 2)
        return abs(hits - chance * tried) > SURPRISE * math.sqrt(chance * (1 - chance) * tried + 1)

    def _fade(self, by: float, ran: set[str]) -> None:
        """Decays all sums; those of modes that did not run at a third of the speed, because nothing contradicts
        them."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) * by)
        for table in (self.trials, self.hits, self.pace):
            for mode, values in table.items():
                left = by if mode in ran else 1 - (1 - by) / 3
                table[mode] = [value * left for value in values]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Evidence:
        """Reads what `asdict` wrote. Raises LookupError, TypeError, ValueError or AttributeError for anything else."""
        sums = {name: finite(found[name] if name not in _LATER else found.get(name, 0.0)) for name in _NUMBERS}
        trials, hits, pace = (
            {str(mode): [finite(value) for value in values] for mode, values in found[name].items()}
            for name in ("trials", "hits", "pace")
        )
        if any(len(pair) != 2 for pair in pace.values()) or {m: len(v) for m, v in trials.items()} != {
            m: len(v) for m, v in hits.items()
        }:
            raise ValueError("expected weight and sum in pace, and a hit count for each trial count")
        return cls(**sums, trials=trials, hits=hits, pace=pace)


_LATER: Final = ("lookups", "matches", "copies", "ends")
"""Sums that files of earlier versions lack."""
_SUMS: Final = (
    "calls", "decisions", "forced", "prompt", "prefilled", "others", "fills", "denoises", "passes", "rows", *_LATER,
)  # fmt: skip
_NUMBERS: Final = (*_SUMS, "total", "spent")


def finite(value: Any) -> float:
    """Returns `value` as a float. Raises ValueError where it is not a finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r}: expected a finite number")
    return number
