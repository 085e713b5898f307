"""What past calls say of a step's outputs: their length, what drafts were worth, and how passes ran against the model.

Knows counts by (step name, schema, temperature), pooled upward: a step that is new is taken for one of its kind, a kind
that is new for any step. Every count fades as new ones come, so that a workload that changes is believed. Does not know
machines or modes' prices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .cost import Workload
from .resolve import StepContext

if TYPE_CHECKING:
    from trimode.engine.result import Round

    from .round_record import RoundRecord

POSITIONS: Final = 31
KEYS: Final = 256
"""Steps that are remembered; the one unused for longest goes first."""
FADING: Final = (0.99, 0.98, 0.95)
STRENGTH: Final = 6.0
"""Trials of its own after which a step is believed as much as the steps above it."""
PRIOR_DECISIONS: Final = 24.0
SPREAD: Final = 0.25
"""Of the logarithm of one call's seconds against the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One finished call. `drafts`: (mode, accepted draft decisions, was one refused) of each round that drafted.

    `pace`: (mode, log of its seconds against the cost model's), where one mode made all of it.
    """

    decisions: int
    forced: int
    prompt: int
    prefilled: int
    others: int = 0
    drafts: tuple[tuple[str, int, bool], ...] = ()
    fills: int = 0
    denoises: int = 0
    pace: tuple[str, float] | None = None


def observed(rounds: Iterable[Round | RoundRecord]) -> dict[str, Any]:
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
    total: float = 0.0
    spent: float = 0.0
    trials: dict[str, list[float]] = field(default_factory=dict)
    hits: dict[str, list[float]] = field(default_factory=dict)
    pace: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seen: Observation, fading: float, pace: tuple[str, float] | None) -> None:
        self._fade(fading, {mode for mode, _, _ in seen.drafts} | ({pace[0]} if pace else set()))
        self.calls += 1
        for name in ("decisions", "forced", "prompt", "prefilled", "others", "fills", "denoises"):
            setattr(self, name, getattr(self, name) + getattr(seen, name))
        for mode, accepted, refused in seen.drafts:
            trials = self.trials.setdefault(mode, [])
            hits = self.hits.setdefault(mode, [])
            tried = min(accepted + refused, POSITIONS)
            trials += [0.0] * (tried - len(trials))
            hits += [0.0] * (tried - len(hits))
            for at in range(tried):
                trials[at] += 1
                hits[at] += at < accepted
        if pace is not None:
            mode, value = pace
            weight, total = self.pace.get(mode, (0.0, 0.0))
            self.pace[mode] = [weight + 1, total + value]

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
        sums = {name: _finite(found[name]) for name in (*_SUMS, "total", "spent")}
        trials, hits, pace = (
            {str(mode): [_finite(value) for value in values] for mode, values in found[name].items()}
            for name in ("trials", "hits", "pace")
        )
        if any(len(pair) != 2 for pair in pace.values()) or {m: len(v) for m, v in trials.items()} != {
            m: len(v) for m, v in hits.items()
        }:
            raise ValueError("expected weight and sum in pace, and a hit count for each trial count")
        return cls(**sums, trials=trials, hits=hits, pace=pace)


_SUMS: Final = ("calls", "decisions", "forced", "prompt", "prefilled", "others", "fills", "denoises")


@dataclass(frozen=True, slots=True)
class Guess:
    """A mean, and how many trials stand behind it."""

    mean: float
    trials: float


@dataclass(slots=True)
class Learned:
    """Evidence by key; `pace`: log of how much slower than the model everything runs of late.

    `total`: seconds that the `planned` calls were expected to take; `spent`: those of them that exploring cost.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    pace: float = 0.0
    calls: int = 0
    planned: int = 0
    total: float = 0.0
    spent: float = 0.0

    def add(
        self, context: StepContext, temperature: float, seen: Observation, fading: Sequence[float] = FADING
    ) -> None:
        """`fading`: what a call leaves of older counts, of all steps, of its kind and of its own step."""
        pace = None
        if seen.pace is not None:
            mode, value = seen.pace
            # A busy machine slows every mode, so what a call says of its mode is what the common pace leaves.
            self.pace += 0.2 * (value - self.relative(levels(context, temperature), mode).mean - self.pace)
            pace = (mode, value - self.pace)
        self.calls += 1
        for key, left in zip(levels(context, temperature), fading, strict=True):
            found = self.evidence.pop(key, None) or Evidence()
            found.add(seen, left, pace)
            self.evidence[key] = found  # at the end, as the latest
        while len(self.evidence) > KEYS:
            del self.evidence[next(iter(self.evidence))]

    def workload(
        self, context: StepContext, temperature: float, max_tokens: int, luck: Mapping[str, float] | None = None
    ) -> Workload:
        """What to expect of a call. `luck`: by mode, standard errors to be added to each chance, for exploring."""
        found = [one for key in levels(context, temperature) if (one := self.evidence.get(key))]
        decisions, forced, prompt = PRIOR_DECISIONS, 0.5, 256.0
        for one in found:
            weight = one.calls + 1
            decisions = (one.decisions + decisions) / weight
            prompt = (one.prompt + prompt) / weight
            forced = (one.forced + forced) / (one.decisions + 1)
        fill = Guess(1.5, 2.0)
        for one in found:
            fill = _pooled(fill, one.fills, one.denoises)
        decisions = min(decisions, max_tokens)
        return Workload(
            decisions=decisions,
            forced=forced,
            acceptance={mode: self._curve(found, mode, (luck or {}).get(mode, 0.0)) for mode in DRAFTING},
            fill=fill.mean,
            context=prompt + decisions / 2,
            calls=1 + context.others,
        )

    def relative(self, keys: Sequence[str], mode: str) -> Guess:
        """Log of how much slower than the common pace a mode runs."""
        guess = Guess(0.0, 1.0)
        for key in keys:
            if one := self.evidence.get(key):
                weight, total = one.pace.get(mode, (0.0, 0.0))
                guess = _pooled(guess, total, weight)
        return guess

    def _curve(self, found: Sequence[Evidence], mode: str, luck: float) -> list[float]:
        """By position; where nobody drafted so far, what the positions before it say together."""
        longest = max((len(one.trials.get(mode, ())) for one in found), default=0)
        top = found[0] if found else Evidence()
        trials, hits = sum(top.trials.get(mode, ())), sum(top.hits.get(mode, ()))
        behind = Guess((hits + 1) / (trials + 2), 2.0)
        curve = []
        for at in range(longest):
            guess = behind
            for one in found:
                tried = one.trials.get(mode, ())
                if at < len(tried):
                    guess = _pooled(guess, one.hits[mode][at], tried[at])
            curve.append(_lucky(guess, luck))
        return curve + [_lucky(behind, luck)] * (POSITIONS - longest)

    def prefill(self, context: StepContext, temperature: float) -> float:
        """Prompt tokens that a call of this step had to compute, on average; 0 where none was seen."""
        found = self.evidence.get(levels(context, temperature)[-1])
        return found.prefilled / found.calls if found and found.calls else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Learned:
        """From `as_dict`. Raises LookupError, TypeError, ValueError or AttributeError for anything else."""
        evidence = {str(key): Evidence.of(one) for key, one in found["evidence"].items()}
        numbers = {name: _finite(found[name]) for name in ("pace", "total", "spent")}
        return cls(evidence=evidence, calls=int(found["calls"]), planned=int(found["planned"]), **numbers)


DRAFTING: Final = ("linear_spec", "quadratic_spec")


def levels(context: StepContext, temperature: float) -> tuple[str, str, str]:
    """Keys from all steps down to this one."""
    bucket = "0" if temperature == 0 else "low" if temperature <= 0.5 else "mid" if temperature <= 1 else "high"
    own = f"step {context.kind} {context.name} {(context.schema_sha256 or '-')[:16]} {bucket}"
    return "all", f"kind {context.kind}", own


def step_of(key: str) -> tuple[str, str] | None:
    """(kind, name) of a step's own key."""
    word, _, rest = key.partition(" ")
    kind, _, tail = rest.partition(" ")
    return (kind, tail.rsplit(" ", 2)[0]) if word == "step" else None


def _pooled(above: Guess, total: float, trials: float) -> Guess:
    """A level's own trials over what is believed above it, which counts as at most STRENGTH trials."""
    weight = min(above.trials, STRENGTH)
    return Guess((total + weight * above.mean) / (trials + weight), trials + weight)


def _lucky(guess: Guess, luck: float) -> float:
    error = math.sqrt(guess.mean * (1 - guess.mean) / (guess.trials + 1)) if luck else 0.0
    return min(max(guess.mean + luck * error, 0.0), 1.0)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r}: expected a finite number")
    return number
