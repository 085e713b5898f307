"""Posterior estimates of a step's outputs from past calls: length, acceptance, and slowdown against the cost model.

Knows evidence by (step name, schema, temperature), pooled hierarchically: a new step starts with the estimates of its
kind, a new kind with those of all steps. Does not know machines or the prices of modes.

The log slowdown of passes against the cost model is a sum of three: that of all recent passes, that of the step, whose
schema may cost time at each token, and that of the mode in all steps. Only the last one influences the choice of a
mode.
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
"""Steps that are remembered; the least recently used one is dropped first."""
FADING: Final = (0.99, 0.98, 0.95)
"""Factors by which a call decays older counts: of all steps, of its kind, of its own step."""
HORIZON: Final = 20.0
"""Calls for which an observation of a step counts, about: the sum of its own calls' weights under FADING."""
STRENGTH: Final = 6.0
"""Trials that the estimate of the level above counts for, at most, when a step's own trials are pooled with it."""
AHEAD: Final = 6.0
"""Trials that a step's acceptance at short positions counts for at positions beyond them, at most."""
KIN: Final = 12.0
"""Trials that drafts of one mode count for in the other, at most, by position."""
PRIOR_DECISIONS: Final = 24.0
"""Decisions of an output, before any call was seen."""
PRIOR_MATCH: Final = 0.5
"""Part of the rounds of `lookup_spec` that find something to copy, before any call was seen."""
PRIOR_COPIES: Final = 4.0
"""Tokens after which a copied draft ends, before any call was seen."""
PRIOR_ROWS: Final = 1.5
"""Rows of a call in one pass, before any call was seen: those of ar where a few tokens are forced."""
COMMON: Final = 0.2
"""Gain with which one reading moves the common slowdown."""
PRIOR_COMMON: Final = 0.25
"""Readings that a common slowdown of zero counts for."""
STALL: Final = 0.7
"""Limit, in logarithms, on the difference between a reading and its expected value."""
SPREAD: Final = 0.5
"""Prior standard deviation of a mode's log slowdown."""
PRIOR_PACES: Final = 2.0
"""Readings that the prior of a log slowdown counts for."""
OBSERVED: Final = 0.75
"""Readings from which on a slowdown counts as observed; below 1, because a call's prefill passes are not counted."""


ANY: Final = "any"
"""Name in a step's `Evidence.pace` of the slowdown in all modes."""
DRAFTING: Final[Mapping[str, str]] = {"linear_spec": "drafts", "quadratic_spec": "drafts", "lookup_spec": "copies"}
"""Modes that draft, each with the name in `Evidence.pace` of its log(actual / expected draft work). Two modes have one
name because they have one drafter."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and the number of trials that it is based on."""

    mean: float
    trials: float

    def over(self, more: float) -> Estimate:
        """Returns the estimate with `more` added to the mean."""
        return Estimate(self.mean + more, self.trials)


@dataclass(slots=True)
class Learned:
    """Evidence by key. `pace`: log slowdown of all recent passes against the cost model, from `paced` readings.

    `total`: expected price in seconds of the `planned` calls; `spent`: the part of it that exploring cost.
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
        """Adds one call. `fading`: factors that decay older counts of all steps, of its kind and of its own step."""
        keys = levels(context, temperature)
        modes, steps = list[Reading](), list[Reading]()
        for mode, value, part in seen.paces:
            of_mode, of_step = self.of_mode(mode).mean, self.of_step(keys).mean
            if self.paced >= OBSERVED:  # limited, because a stalled call says little about its mode or step
                value = _within(value, self.pace + of_mode + of_step, STALL)
            # A busy machine slows everything, so the common slowdown is subtracted before the rest counts for the mode
            # or the step. The first readings move only the common one: counted for the mode that happened to run, they
            # would make all others look fast.
            self.paced += part
            gain = part * max(COMMON, 1 / (self.paced + PRIOR_COMMON))
            self.pace += min(gain, 1.0) * (value - of_mode - of_step - self.pace)
            modes.append((mode, value - of_step - self.pace, part))
            steps.append((ANY, value - of_mode - self.pace, part))
        self.calls += 1
        for key, left, paces in zip(keys, fading, (modes, steps, steps), strict=True):
            found = self.evidence.pop(key, None) or Evidence()
            found.add(seen, left, paces)
            self.evidence[key] = found  # last in the order of use
        while len(self.evidence) > KEYS:
            del self.evidence[next(iter(self.evidence))]

    def add_draft_error(self, context: StepContext, temperature: float, mode: str, value: float, part: float) -> None:
        """Adds log(actual / expected draft work) of a call of this step in `mode`, with weight `part`."""
        for key in levels(context, temperature)[1:]:
            self.evidence[key].add_reading(DRAFTING[mode], value, part)

    def workload(self, context: StepContext, temperature: float, max_tokens: int) -> Workload:
        """Returns the expected workload of a call."""
        keys = levels(context, temperature)
        found = [one for key in keys if (one := self.evidence.get(key))]
        decisions, forced, prompt = PRIOR_DECISIONS, 0.5, 256.0
        for one in found:
            weight = one.calls + 1
            decisions = (one.decisions + decisions) / weight
            prompt = (one.prompt + prompt) / weight
            forced = (one.forced + forced) / (one.decisions + 1)
        fill, match, copies = Estimate(1.5, 2.0), Estimate(PRIOR_MATCH, 2.0), Estimate(PRIOR_COPIES, 2.0)
        for one in found:
            if one.denoises:
                fill = _pooled(fill, one.fills, one.denoises)
            match, copies = _pooled(match, one.matches, one.lookups), _pooled(copies, one.copies, one.ends)
        decisions = min(decisions, max_tokens)
        all_steps = self.evidence.get(keys[0]) or Evidence()
        curves = {mode: _curve(found, mode) for mode in DRAFTING}
        return Workload(
            decisions=decisions,
            forced=forced,
            acceptance={mode: chances for mode, (chances, _) in curves.items()},
            trials={mode: trials for mode, (_, trials) in curves.items()},
            fill=fill.mean,
            match=match.mean,
            copies=copies.mean,
            context=prompt + decisions / 2,
            calls=1 + context.others,
            rows_of_others=(all_steps.rows + PRIOR_ROWS) / (all_steps.passes + 1),
        )

    def of_mode(self, mode: str) -> Estimate:
        """Returns the log slowdown of a mode relative to all passes, over all steps."""
        return self._paced(["all"], mode)

    def of_step(self, keys: Sequence[str]) -> Estimate:
        """Returns the log slowdown of a step relative to all passes, over all modes, because its schema may cost time
        at each token."""
        return self._paced(keys[1:], ANY)

    def of_drafts(self, keys: Sequence[str], mode: str) -> float:
        """Returns log(actual / expected draft work) of a step in `mode`, 0 for modes without drafts: these may contain
        fewer decisions than acceptance alone suggests, or more rows."""
        return self._paced(keys[1:], DRAFTING[mode]).mean if mode in DRAFTING else 0.0

    def slowdown(self, context: StepContext, temperature: float, mode: str) -> float:
        """Returns the log of what a call of this step takes in `mode` over the cost model, all factors together."""
        keys = levels(context, temperature)
        return self.pace + self.of_step(keys).mean + self.of_mode(mode).mean + self.of_drafts(keys, mode)

    def _paced(self, keys: Iterable[str], name: str) -> Estimate:
        estimate = Estimate(0.0, PRIOR_PACES)
        for key in keys:
            if one := self.evidence.get(key):
                weight, total = one.pace.get(name, (0.0, 0.0))
                estimate = _pooled(estimate, total, weight)
        return estimate

    def prefill(self, context: StepContext, temperature: float) -> float:
        """Returns the prompt tokens that a call of this step had to prefill, on average; 0 where no call was seen."""
        found = self.evidence.get(levels(context, temperature)[-1])
        return found.prefilled / found.calls if found and found.calls else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Learned:
        """Reads what `as_dict` wrote. Raises LookupError, TypeError, ValueError or AttributeError for anything else."""
        evidence = {str(key): Evidence.of(one) for key, one in found["evidence"].items()}
        numbers = {name: finite(found[name]) for name in ("pace", "paced", "total", "spent")}
        return cls(evidence=evidence, calls=int(found["calls"]), planned=int(found["planned"]), **numbers)


def levels(context: StepContext, temperature: float) -> tuple[str, str, str]:
    """Returns the keys of the evidence that a step's estimates are pooled from: all steps, its kind, the step
    itself."""
    bucket = "0" if temperature == 0 else "low" if temperature <= 0.5 else "mid" if temperature <= 1 else "high"
    own = f"step {context.kind} {context.name} {(context.schema_sha256 or '-')[:16]} {bucket}"
    return "all", f"kind {context.kind}", own


def step_of(key: str) -> tuple[str, str] | None:
    """Returns (kind, name) of a step's own key; None for the keys of a kind or of all steps."""
    level, _, rest = key.partition(" ")
    kind, _, tail = rest.partition(" ")
    return (kind, tail.rsplit(" ", 2)[0]) if level == "step" else None


def _curve(found: Sequence[Evidence], mode: str) -> tuple[list[float], list[float]]:
    """Returns the probability of acceptance by draft position, and the trials of each. Positions without trials start
    from the average over all positions of all steps.

    A step's mean acceptance also counts at positions beyond its drafts, for at most AHEAD trials.
    """
    drafts = [_drafts(one, mode) for one in found]
    whole, hits = (sum(sum(counts[part]) for counts in drafts[:1]) for part in (0, 1))
    far = max([len(own) for own, _ in drafts], default=0) + 1  # positions beyond it repeat the last value
    chances, weights = [(hits + 1) / (whole + 2)] * far, [2.0] * far
    for own, accepted in drafts:  # `_pooled` inlined on plain numbers, because this runs for every plan
        whole = sum(own)
        if not whole:
            continue
        mean, most = sum(accepted) / whole, min(AHEAD, whole)
        for at in range(far):
            tried, hit = (own[at], accepted[at]) if at < len(own) else (0.0, 0.0)
            above = weights[at] if weights[at] < STRENGTH else STRENGTH
            extrapolated = most - tried if tried < most else 0.0
            weights[at] = tried + above
            chances[at] = (hit + extrapolated * mean + above * chances[at]) / (tried + extrapolated + above)
    more = POSITIONS - far
    return chances + chances[-1:] * more, weights + weights[-1:] * more


def _drafts(one: Evidence, mode: str) -> tuple[Sequence[float], Sequence[float]]:
    """Returns trials and hits by position. Those of another mode with the same drafter count too, for at most KIN
    trials."""
    trials, hits = one.trials.get(mode, ()), one.hits.get(mode, ())
    other = next((kin for kin, drafter in DRAFTING.items() if drafter == DRAFTING[mode] and kin != mode), None)
    if other is None or not (other_trials := one.trials.get(other, ())):
        return trials, hits
    parts = [1.0 if tried <= KIN else KIN / tried for tried in other_trials]
    borrowed = (list(map(mul, parts, each)) for each in (other_trials, one.hits[other]))
    return _sum(trials, next(borrowed)), _sum(hits, next(borrowed))


def _sum(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0.0)]


def _within(value: float, center: float, width: float) -> float:
    return min(max(value, center - width), center + width)


def spread(pace: Estimate) -> float:
    """Returns the standard error of a log slowdown."""
    return SPREAD * math.sqrt(PRIOR_PACES / pace.trials)


def is_observed(pace: Estimate) -> bool:
    """Returns whether a log slowdown rests on observed calls, not on the prior alone."""
    return pace.trials >= PRIOR_PACES + OBSERVED


def _pooled(above: Estimate, total: float, trials: float) -> Estimate:
    """Pools a level's own trials with the estimate of the level above, which counts for at most STRENGTH trials."""
    weight = min(above.trials, STRENGTH)
    return Estimate((total + weight * above.mean) / (trials + weight), trials + weight)
