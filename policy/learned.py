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

from .pricing import Workload
from .resolve import StepContext

if TYPE_CHECKING:
    from trimode.engine.result import Round

    from .round_record import RoundRecord

POSITIONS: Final = 31
KEYS: Final = 256
"""Steps that are remembered; the one unused for longest goes first."""
FADING: Final = (0.99, 0.98, 0.95)
HORIZON: Final = 20.0
"""Calls for which a step's news is believed, about: what FADING leaves of its own calls in the long run."""
STRENGTH: Final = 6.0
"""Trials of its own after which a step is believed as much as the steps above it."""
AHEAD: Final = 6.0
"""Trials that a step's short drafts are worth for the places behind them."""
PRIOR_DECISIONS: Final = 24.0
SURPRISE: Final = 2.5
"""Standard errors off which a call contradicts older ones."""
CONTRADICTED: Final = 0.2
"""What is left of those."""
PRIOR_ROWS: Final = 1.5
"""Of a call in one pass: what ar brings where a few tokens are forced."""
COMMON: Final = 0.2
"""What one reading moves the common pace."""
PRIOR_COMMON: Final = 0.25
"""Readings that a common pace of zero is worth."""
SPREAD: Final = 0.5
"""Of how modes run against the model, in logarithms, where none of their calls was seen."""
PRIOR_PACES: Final = 0.25
"""Readings that this is worth: one reading spreads half as much."""


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
    paces: tuple[tuple[str, float, float], ...] = ()


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
    passes: float = 0.0
    rows: float = 0.0
    total: float = 0.0
    spent: float = 0.0
    trials: dict[str, list[float]] = field(default_factory=dict)
    hits: dict[str, list[float]] = field(default_factory=dict)
    pace: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seen: Observation, fading: float, paces: Sequence[tuple[str, float, float]]) -> None:
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
        for mode, value, part in paces:
            weight, total = self.pace.get(mode, (0.0, 0.0))
            self.pace[mode] = [weight + part, total + part * value]

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


_SUMS: Final = ("calls", "decisions", "forced", "prompt", "prefilled", "others", "fills", "denoises", "passes", "rows")


@dataclass(frozen=True, slots=True)
class Guess:
    """A mean, and how many trials stand behind it."""

    mean: float
    trials: float


@dataclass(slots=True)
class Learned:
    """Evidence by key; `pace`: log of how much slower than the model everything runs of late, by `paced` readings.

    `total`: price in seconds that the `planned` calls were expected to have; `spent`: what exploring cost of it.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    pace: float = 0.0
    paced: float = 0.0
    calls: int = 0
    planned: int = 0
    total: float = 0.0
    spent: float = 0.0

    def add(
        self, context: StepContext, temperature: float, seen: Observation, fading: Sequence[float] = FADING
    ) -> None:
        """`fading`: what a call leaves of older counts, of all steps, of its kind and of its own step."""
        keys, paces = levels(context, temperature), []
        for mode, value, part in seen.paces:
            # A busy machine slows every mode, so what a call says of its mode is what the common pace leaves. The first
            # readings are all common: blamed on the mode that happened to run, they would make every other look quick.
            self.paced += part
            gain = part * max(COMMON, 1 / (self.paced + PRIOR_COMMON))
            self.pace += min(gain, 1.0) * (value - self.relative(keys, mode).mean - self.pace)
            paces.append((mode, value - self.pace, part))
        self.calls += 1
        for key, left in zip(keys, fading, strict=True):
            found = self.evidence.pop(key, None) or Evidence()
            found.add(seen, left, paces)
            self.evidence[key] = found  # at the end, as the latest
        while len(self.evidence) > KEYS:
            del self.evidence[next(iter(self.evidence))]

    def workload(self, context: StepContext, temperature: float, max_tokens: int) -> Workload:
        """What to expect of a call."""
        keys = levels(context, temperature)
        found = [one for key in keys if (one := self.evidence.get(key))]
        decisions, forced, prompt = PRIOR_DECISIONS, 0.5, 256.0
        for one in found:
            weight = one.calls + 1
            decisions = (one.decisions + decisions) / weight
            prompt = (one.prompt + prompt) / weight
            forced = (one.forced + forced) / (one.decisions + 1)
        fill = Guess(1.5, 2.0)
        for one in found:
            if one.denoises:
                fill = _pooled(fill, one.fills, one.denoises)
        decisions = min(decisions, max_tokens)
        everyone = self.evidence.get(keys[0]) or Evidence()
        curves = {mode: _curve(found, mode) for mode in DRAFTING}
        return Workload(
            decisions=decisions,
            forced=forced,
            acceptance={mode: chances for mode, (chances, _) in curves.items()},
            trials={mode: trials for mode, (_, trials) in curves.items()},
            fill=fill.mean,
            context=prompt + decisions / 2,
            calls=1 + context.others,
            theirs=(everyone.rows + PRIOR_ROWS) / (everyone.passes + 1),
        )

    def relative(self, keys: Sequence[str], mode: str) -> Guess:
        """Log of how much slower than the common pace a mode runs."""
        guess = Guess(0.0, PRIOR_PACES)
        for key in keys:
            if one := self.evidence.get(key):
                weight, total = one.pace.get(mode, (0.0, 0.0))
                guess = _pooled(guess, total, weight)
        return guess

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
        numbers = {name: _finite(found[name]) for name in ("pace", "paced", "total", "spent")}
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


def _curve(found: Sequence[Evidence], mode: str) -> tuple[list[float], list[float]]:
    """Chances by position, and the trials behind each; where nobody drafted, what all positions say together.

    A step whose drafts were all short says a little of longer ones: as much as AHEAD trials, of what its own are worth.
    """
    top = found[0] if found else Evidence()
    trials, hits = sum(top.trials.get(mode, ())), sum(top.hits.get(mode, ()))
    chances, weights = [(hits + 1) / (trials + 2)] * POSITIONS, [2.0] * POSITIONS
    for one in found:  # `_pooled` in plain numbers: this runs for every plan
        own, taken = one.trials.get(mode, ()), one.hits.get(mode, ())
        whole = sum(own)
        if not whole:
            continue
        mean, most = sum(taken) / whole, min(AHEAD, whole)
        for at in range(POSITIONS):
            tried, hit = (own[at], taken[at]) if at < len(own) else (0.0, 0.0)
            above = weights[at] if weights[at] < STRENGTH else STRENGTH
            told = most - tried if tried < most else 0.0
            weights[at] = tried + above
            chances[at] = (hit + told * mean + above * chances[at]) / (tried + told + above)
    return chances, weights


def spread(pace: Guess) -> float:
    """Standard error of a pace."""
    return SPREAD * math.sqrt(PRIOR_PACES / pace.trials)


def _pooled(above: Guess, total: float, trials: float) -> Guess:
    """A level's own trials over what is believed above it, which counts as at most STRENGTH trials."""
    weight = min(above.trials, STRENGTH)
    return Guess((total + weight * above.mean) / (trials + weight), trials + weight)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r}: expected a finite number")
    return number
