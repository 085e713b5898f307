"""Counts of past calls: what one of them was, and the sums over many, in which older ones fade.

Every count fades as new ones come, so that a workload that changes is believed. Does not know whose calls they were,
nor what follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

POSITIONS: Final = 31
SURPRISE: Final = 2.5
"""Standard errors off which a call contradicts older ones."""
CONTRADICTED: Final = 0.2
"""What is left of those."""

Reading = tuple[str, float, float]
"""Whose, its value, and how much it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One finished call. `drafts`: (mode, accepted draft decisions, was one refused) of each round that drafted.

    `passes`: of decoding, and `rows`: the call's own in them. `paces`: for each mode that ran, the log of its seconds
    against what the cost model says of the passes as they were, with all that shared them; and its part of the passes.
    """

    decisions: int
    forced: int
    prompt: int
    prefilled: int
    others: int = 0
    drafts: tuple[tuple[str, int, bool], ...] = ()
    fills: int = 0
    denoises: int = 0
    passes: int = 0
    rows: int = 0
    paces: tuple[Reading, ...] = ()


class RoundCounts(Protocol):
    """What is counted of a round: of the engine's as of a recorded one."""

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


def observed(rounds: Iterable[RoundCounts]) -> dict[str, Any]:
    """What rounds, of a result or of a record, hold of an `Observation`."""
    decisions = forced = fills = denoises = 0
    drafts: list[tuple[str, int, bool]] = []
    for made in rounds:
        free = made.origins.count("f") + made.origins.count("b")
        forced += free
        decisions += len(made.origins) - free
        if made.fills:
            fills, denoises = fills + sum(made.fills), denoises + len(made.fills)
        elif made.drafted:
            drafts.append((made.mode, made.accepted, any(_reason(lost) == "target" for lost in made.rejected)))
    return {
        "decisions": decisions, "forced": forced, "drafts": tuple(drafts), "fills": fills, "denoises": denoises,
    }  # fmt: skip


def _reason(lost: Any) -> str:
    return str(lost[1] if isinstance(lost, tuple) else lost.reason)


@dataclass(slots=True)
class Evidence:
    """Faded sums over calls. `trials`, `hits`: by drafting mode and draft position; `pace`: (weight, sum) by mode.

    `total`: seconds that plans were expected to take; `spent`: those that exploring cost. These two do not fade.
    """

    calls: float = 0.0
    decisions: float = 0.0
    forced: float = 0.0
    prompt: float = 0.0
    prefilled: float = 0.0
    others: float = 0.0
    fills: float = 0.0
    denoises: float = 0.0
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
            self.hear(*reading)

    def hear(self, name: str, value: float, part: float) -> None:
        """One reading of a pace."""
        weight, total = self.pace.get(name, (0.0, 0.0))
        self.pace[name] = [weight + part, total + part * value]

    def _contradicted(self, mode: str, seen: Observation) -> bool:
        """Whether a call's drafts fared as they hardly could if what is known still held."""
        known = sum(self.trials.get(mode, ()))
        drafts = [(accepted, accepted + refused) for made, accepted, refused in seen.drafts if made == mode]
        hits, tried = sum(accepted for accepted, _ in drafts), sum(each for _, each in drafts)
        if not known or not tried:
            return False
        chance = (sum(self.hits[mode]) + 1) / (known + 2)
        return abs(hits - chance * tried) > SURPRISE * math.sqrt(chance * (1 - chance) * tried + 1)

    def _fade(self, by: float, ran: set[str]) -> None:
        """What is known of modes that did not run fades at a third of the speed: it has not been contradicted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) * by)
        for table in (self.trials, self.hits, self.pace):
            for mode, values in table.items():
                left = by if mode in ran else 1 - (1 - by) / 3
                table[mode] = [value * left for value in values]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Evidence:
        sums = {name: finite(found[name]) for name in (*_SUMS, "total", "spent")}
        trials, hits, pace = (
            {str(mode): [finite(value) for value in values] for mode, values in found[name].items()}
            for name in ("trials", "hits", "pace")
        )
        if any(len(pair) != 2 for pair in pace.values()) or {m: len(v) for m, v in trials.items()} != {
            m: len(v) for m, v in hits.items()
        }:
            raise ValueError("expected weight and sum in pace, and a hit count for each trial count")
        return cls(**sums, trials=trials, hits=hits, pace=pace)


_SUMS: Final = ("calls", "decisions", "forced", "prompt", "prefilled", "others", "fills", "denoises", "passes", "rows")


def finite(value: Any) -> float:
    """Raises ValueError for what is no number, or none that can be counted with."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r}: expected a finite number")
    return number
