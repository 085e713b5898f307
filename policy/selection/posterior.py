"""What past calls say of a step's outputs: their length, what drafts were worth, and how passes ran against the model.

Knows evidence by (step name, schema, temperature), pooled upward: a step that is new is taken for one of its kind, a
kind that is new for any step. Does not know machines or modes' prices.

How long passes take, against the model, is the sum of three logarithms: of all passes of late, of the step, whose
schema may cost each token some, and of the mode, in whatever step. Only the last one can make a mode the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from operator import mul
from typing import Any, Final

from .evidence import POSITIONS, Evidence, Observation, Reading, finite
from .policies import StepContext
from .pricing import Workload

KEYS: Final = 256
"""Steps that are remembered; the one unused for longest goes first."""
FADING: Final = (0.99, 0.98, 0.95)
HORIZON: Final = 20.0
"""Calls for which a step's news is believed, about: what FADING leaves of its own calls in the long run."""
STRENGTH: Final = 6.0
"""Trials of its own after which a step is believed as much as the steps above it."""
AHEAD: Final = 6.0
"""Trials that a step's short drafts are worth for the places behind them."""
KIN: Final = 12.0
"""Trials that drafts of one mode are worth for the other, by position."""
PRIOR_DECISIONS: Final = 24.0
PRIOR_ROWS: Final = 1.5
"""Of a call in one pass: what ar brings where a few tokens are forced."""
COMMON: Final = 0.2
"""What one reading moves the common pace."""
PRIOR_COMMON: Final = 0.25
"""Readings that a common pace of zero is worth."""
STALL: Final = 0.7
"""What one reading may differ from what was expected of it."""
SPREAD: Final = 0.5
"""Of how modes run against the model, in logarithms, where none of their calls was seen."""
PRIOR_PACES: Final = 2.0
"""Readings that this is worth."""
HEARD: Final = 0.75
"""Readings from which on a pace is known at all: the first call's, whose prompt's passes are not counted."""


ANY, DRAFTS = "any", "drafts"
"""Names among a step's paces: of whatever runs, and of modes that draft, by how much their work was misjudged."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and how many trials stand behind it."""

    mean: float
    trials: float

    def over(self, more: float) -> Estimate:
        """The same with `more` on top."""
        return Estimate(self.mean + more, self.trials)


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
        keys = levels(context, temperature)
        modes, steps = list[Reading](), list[Reading]()
        for mode, value, part in seen.paces:
            of_mode, of_step = self.of_mode(mode).mean, self.of_step(keys).mean
            if self.paced >= HEARD:  # a call that met a stall says little of anything
                value = _within(value, self.pace + of_mode + of_step, STALL)
            # A busy machine slows everything, so what a call says of its mode or step is what the common pace leaves.
            # The first readings are all common: blamed on the mode that happened to run, they would make every other
            # look quick.
            self.paced += part
            gain = part * max(COMMON, 1 / (self.paced + PRIOR_COMMON))
            self.pace += min(gain, 1.0) * (value - of_mode - of_step - self.pace)
            modes.append((mode, value - of_step - self.pace, part))
            steps.append((ANY, value - of_mode - self.pace, part))
        self.calls += 1
        for key, left, paces in zip(keys, fading, (modes, steps, steps), strict=True):
            found = self.evidence.pop(key, None) or Evidence()
            found.add(seen, left, paces)
            self.evidence[key] = found  # at the end, as the latest
        while len(self.evidence) > KEYS:
            del self.evidence[next(iter(self.evidence))]

    def misjudged(self, context: StepContext, temperature: float, value: float, part: float) -> None:
        """How much more work, in logarithms, the drafts of a call were than is thought of its step by now."""
        for key in levels(context, temperature)[1:]:
            self.evidence[key].hear(DRAFTS, value, part)

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
        fill = Estimate(1.5, 2.0)
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

    def of_mode(self, mode: str) -> Estimate:
        """Log of how much slower than the common pace a mode runs, in whatever step."""
        return self._paced(["all"], mode)

    def of_step(self, keys: Sequence[str]) -> Estimate:
        """Log of how much slower than the common pace a step runs, in whatever mode: a schema costs each token some."""
        return self._paced(keys[1:], ANY)

    def of_drafts(self, keys: Sequence[str]) -> float:
        """Log of how much more work a step's drafts are than acceptance alone says: they may hold fewer decisions than
        thought, or more rows."""
        return self._paced(keys[1:], DRAFTS).mean

    def _paced(self, keys: Iterable[str], name: str) -> Estimate:
        guess = Estimate(0.0, PRIOR_PACES)
        for key in keys:
            if one := self.evidence.get(key):
                weight, total = one.pace.get(name, (0.0, 0.0))
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
        numbers = {name: finite(found[name]) for name in ("pace", "paced", "total", "spent")}
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
    drafts = [_drafts(one, mode) for one in found]
    whole, hits = (sum(sum(counts[part]) for counts in drafts[:1]) for part in (0, 1))
    far = max([len(own) for own, _ in drafts], default=0) + 1  # what lies farther is as it is there
    chances, weights = [(hits + 1) / (whole + 2)] * far, [2.0] * far
    for own, taken in drafts:  # `_pooled` in plain numbers: this runs for every plan
        whole = sum(own)
        if not whole:
            continue
        mean, most = sum(taken) / whole, min(AHEAD, whole)
        for at in range(far):
            tried, hit = (own[at], taken[at]) if at < len(own) else (0.0, 0.0)
            above = weights[at] if weights[at] < STRENGTH else STRENGTH
            told = most - tried if tried < most else 0.0
            weights[at] = tried + above
            chances[at] = (hit + told * mean + above * chances[at]) / (tried + told + above)
    more = POSITIONS - far
    return chances + chances[-1:] * more, weights + weights[-1:] * more


def _drafts(one: Evidence, mode: str) -> tuple[Sequence[float], Sequence[float]]:
    """Trials and hits by position; those of the other mode that drafts count, too, as much as KIN trials: it is the
    same drafter, from another place."""
    own, taken = one.trials.get(mode, ()), one.hits.get(mode, ())
    other = next(kin for kin in DRAFTING if kin != mode)
    theirs = one.trials.get(other, ())
    if not theirs:
        return own, taken
    parts = [1.0 if tried <= KIN else KIN / tried for tried in theirs]
    borrowed = (list(map(mul, parts, each)) for each in (theirs, one.hits[other]))
    return _sum(own, next(borrowed)), _sum(taken, next(borrowed))


def _sum(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0.0)]


def _within(value: float, center: float, width: float) -> float:
    return min(max(value, center - width), center + width)


def spread(pace: Estimate) -> float:
    """Standard error of a pace."""
    return SPREAD * math.sqrt(PRIOR_PACES / pace.trials)


def heard_of(pace: Estimate) -> bool:
    """Whether somebody ran so, about."""
    return pace.trials >= PRIOR_PACES + HEARD


def _pooled(above: Estimate, total: float, trials: float) -> Estimate:
    """A level's own trials over what is believed above it, which counts as at most STRENGTH trials."""
    weight = min(above.trials, STRENGTH)
    return Estimate((total + weight * above.mean) / (trials + weight), trials + weight)
