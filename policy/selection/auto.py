"""`policy="auto"`: the fastest mode that is allowed, by the cost of passes on this machine and what past calls taught.

Knows the cost model, past calls and how to explore within a budget. Exploring and switching cost time only, never
tokens, because exact modes agree on every token. Does not decode: `observe` gets the results of its plans. A plan
depends on what was learned, the seed and the context; `lock` makes a fixed table of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from trimode.engine.locks import ForkSafeLock
from trimode.engine.result import EXACT, Mode

from .. import cache_file as store
from ..errors import PolicyError
from .cost_model import CostModel
from .evidence import Evidence
from .exploration import (
    GRACE,
    SHARE,
    CachedComparison,
    Candidates,
    Comparison,
    Decision,
    loss_of,
    promising,
    proposed,
    remaining_budget,
)
from .feedback import learn
from .policies import DecodePlan, Forecast, Layer, Policy, StepContext, resolve
from .posterior import DRAFTING, KEYS, Learned, levels, step_of
from .pricing import Cost, Passes
from .settings import MODES, STEP_KINDS, Settings, known_kind
from .switching import Breakeven
from .variants import AR, VARIANTS, Variant

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult


@dataclass(slots=True)
class Auto:
    """A policy that learns; safe for threads. `modes`: those that the weights support. `path`: where `save` writes."""

    cost: CostModel
    learned: Learned = field(default_factory=Learned)
    modes: Sequence[Mode] = MODES
    variants: Sequence[Variant] = VARIANTS
    seed: int = 0
    path: Path | None = None
    name: str = "auto"
    version: str = "2"
    sha256: str = field(init=False)
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)
    _cache: dict[str, CachedComparison] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Computes the digest of the rules. What was learned is not in it; each plan's reason reports that."""
        rules = [self.version, self.seed, SHARE, GRACE, *map(str, self.variants), self.cost.as_dict()]
        self.sha256 = hashlib.sha256(json.dumps(rules).encode()).hexdigest()

    @classmethod
    def kept(cls, cost: CostModel, modes: Sequence[Mode], path: Path) -> Auto:
        """Returns a policy with what earlier processes learned. An unreadable file is set aside with a CacheWarning."""
        learned = store.read(path, "auto", Learned.of) or Learned()
        return cls(cost, learned, modes, path=path)

    def save(self) -> None:
        if self.path is not None:
            with self._lock:
                store.write(self.path, "auto", self.learned.as_dict())

    def resolve(self, context: StepContext) -> DecodePlan:
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:  # noqa: ARG002
        """Returns no layers, because `auto` never overrides a mode that somebody gave."""
        return []

    def choose_mode(self, plan: DecodePlan) -> DecodePlan:
        with self._lock:
            found = self._decision_for(plan.context, plan.settings, plan.exact)
        return replace(
            plan,
            mode=found.variant.mode,
            settings=found.variant.settings.over(plan.settings),
            policy=self,
            reason=found.reason,
            controller=found.controller,
            forecast=found.forecast,
            notes=(*plan.notes, *found.notes),
        )

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """Calls `choose_mode`, of which this is the former name, kept for one release."""
        return self.choose_mode(plan)

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Learns from a call that ran under `plan`, no matter who chose its mode."""
        keys = levels(plan.context, plan.settings.temperature or 0.0)
        with self._lock:
            learn(self.cost, self.learned, plan, result)
            if plan.forecast is not None:
                self.learned.planned += 1
                for account in (self.learned, self.learned.evidence[keys[-1]]):
                    account.total += plan.forecast.price
                    account.spent += plan.forecast.regret
            explored = plan.forecast is not None and plan.forecast.regret > 0
            self._count_call(keys, explored or any(round_.switch for round_ in result.rounds))

    def lock(self, name: str = "locked") -> Policy:
        """Returns the current choices, without exploring, as a fixed table of every step and kind seen so far."""
        with self._lock:
            kinds = {kind: self._cheapest(kind, kind, f"kind {kind}") for kind in STEP_KINDS}
            steps: dict[str, tuple[float, Settings]] = {}
            for key, found in self.learned.evidence.items():
                if (step := step_of(key)) is not None:
                    settings = self._cheapest(*step, key)
                    if settings is not None and found.calls >= steps.get(step[1], (0.0, settings))[0]:
                        steps[step[1]] = (found.calls, settings)
        return Policy(
            name=name,
            kinds={kind: settings for kind, settings in kinds.items() if settings is not None},
            steps={step: settings for step, (_, settings) in sorted(steps.items())},
        )

    def table(self, context: StepContext, settings: Settings, exact: bool = True) -> list[tuple[Variant, Cost]]:
        """Returns the expected cost of each variant, the cheapest first."""
        candidates = self._candidates(context, settings, self._allowed(settings, exact))
        return sorted(candidates.expected().items(), key=lambda pair: pair[1].price)

    def _decision_for(self, context: StepContext, settings: Settings, exact: bool) -> Decision:
        *_, kind, key = levels(context, settings.temperature or 0.0)
        own = self.learned.evidence.get(key)
        comparison = self._cached_comparison(kind if own is None else key, context, settings, exact)
        if settings.deadline is not None or len(comparison.chances) < 2:
            return comparison.decision
        # Divided by the square, because n running calls may all explore at once, and each delays the n others.
        call_price = comparison.prices[comparison.best].price
        remaining = remaining_budget(self.learned, own or Evidence(), call_price) / (1 + context.others) ** 2
        if remaining <= 0 or remaining < comparison.least:
            return comparison.decision
        rng = Random(f"{self.seed} {self.learned.calls} {key}")
        chosen = proposed(comparison.candidates, comparison.prices, comparison.chances, remaining, rng)
        if chosen == comparison.best:
            return comparison.decision
        return self._decision(context, settings, comparison, chosen)

    def _cached_comparison(self, key: str, context: StepContext, settings: Settings, exact: bool) -> Comparison:
        """Returns the cached comparison of the variants for one step, or makes it.

        It serves the next `calls / 4` calls (at least one) and is dropped earlier when a call explored or switched its
        mode. A step without calls of its own shares the cache of its kind.
        """
        cached = self._cache.get(key)
        if cached is None:
            found = self.learned.evidence.get(key)
            if len(self._cache) >= KEYS:
                self._cache.clear()
            cached = self._cache[key] = CachedComparison(1 if found is None else max(int(found.calls / 4), 1))
        options = (settings.max_tokens, settings.block_length, settings.rows, settings.exact_first, settings.deadline)
        request = (context.name, context.others, *options, exact)
        comparison = cached.comparisons.get(request)
        if comparison is None:
            comparison = cached.comparisons[request] = self._compare(context, settings, exact)
        return comparison

    def _count_call(self, keys: Iterable[str], outdated: bool) -> None:
        """Counts one call against the cached comparisons of `keys`; drops them if `outdated` or exhausted."""
        for key in keys:
            if (cached := self._cache.get(key)) is not None:
                cached.remaining -= 1
                if outdated or cached.remaining <= 0:
                    del self._cache[key]

    def _compare(self, context: StepContext, settings: Settings, exact: bool) -> Comparison:
        offered = self._allowed(settings, exact)
        if not offered:
            allowed = "an exact mode" if exact else "any mode"
            raise PolicyError(f"policy 'auto' found no way to decode: {allowed} with the options that were given")
        candidates = self._candidates(context, settings, offered)
        prices, late = candidates.expected(), settings.deadline is not None
        best = min(offered, key=lambda variant: prices[variant].seconds if late else prices[variant].price)
        chances = offered if late else promising(candidates.at_best(), prices, best)
        losses = (loss_of(other, prices, best) for other in chances if other != best)
        comparison = Comparison(candidates, prices, best, chances, min(losses, default=math.inf))
        comparison.decision = self._decision(context, settings, comparison, best)
        return comparison

    def _allowed(self, settings: Settings, exact: bool) -> list[Variant]:
        """Returns the variants that the weights and the caller allow, with the options that the caller gave."""
        allowed = [v for v in self.variants if v.mode in self.modes and (v.mode in EXACT or not exact)]
        if settings.block_length is None and settings.rows is None and settings.exact_first is None:
            return allowed
        return list(dict.fromkeys(variant.with_given(settings) for variant in allowed))

    def _candidates(self, context: StepContext, settings: Settings, offered: Sequence[Variant]) -> Candidates:
        temperature = settings.temperature or 0.0
        keys = levels(context, temperature)
        modes: set[str] = {variant.mode for variant in offered}
        paces = {mode: self.learned.of_mode(mode).over(self.learned.of_drafts(keys, mode)) for mode in modes}
        load = self.learned.workload(context, temperature, settings.max_tokens or 256)
        common = self.learned.pace + self.learned.of_step(keys).mean
        return Candidates(load, Passes(self.cost, load), offered, common, paces)

    def _decision(self, context: StepContext, settings: Settings, comparison: Comparison, variant: Variant) -> Decision:
        prices, best = comparison.prices, comparison.best
        temperature = settings.temperature or 0.0
        own = self.learned.evidence.get(levels(context, temperature)[-1])
        cost = prices[variant]
        forecast = Forecast(
            seconds=cost.seconds,
            price=cost.price,
            passes=cost.passes,
            tokens=cost.tokens,
            regret=loss_of(variant, prices, best),
            observed=0.0 if own is None else own.calls,
            prefill=self.cost.seconds(self.learned.prefill(context, temperature)) * math.exp(self.learned.pace),
        )
        ar = prices.get(AR)
        controller = None
        if ar is not None and variant.mode in DRAFTING:
            controller = Breakeven(variant=str(variant), needed=cost.a_round[1] / ar.a_round[1])
        reason = _reason(variant, comparison, forecast, context)
        return Decision(variant, reason, controller, forecast, _late(settings.deadline, forecast))

    def _cheapest(self, kind: str, name: str, key: str) -> Settings | None:
        found = self.learned.evidence.get(key)
        known = known_kind(kind)
        if found is None or known is None:
            return None
        schema, bucket = key.rsplit(" ", 2)[1:] if key.startswith("step ") else ("-", "0")
        context = StepContext(
            kind=known,
            name=name,
            schema_sha256=None if schema == "-" else schema,
            others=round(found.others / found.calls),
        )
        settings = Settings(temperature=_BUCKETS[bucket])
        table = self.table(context, settings)
        return table[0][0].settings if table else None


_BUCKETS: Final = {"0": 0.0, "low": 0.5, "mid": 1.0, "high": 1.5}


def _reason(variant: Variant, comparison: Comparison, forecast: Forecast, context: StepContext) -> str:
    """Returns a reason: `linear_spec:8: policy 'auto' expects 812 tokens/s (ar 640), by 23 calls of step 'act'`."""
    best, speeds = comparison.best, dict[str, float]()
    for each, cost in comparison.prices.items():
        if each.mode != variant.mode:
            speeds[each.mode] = max(cost.tokens / cost.price, speeds.get(each.mode, 0.0))
    rivals = ", ".join(f"{mode} {speeds[mode]:.0f}" for mode in sorted(speeds))
    reason = f"{variant}: policy 'auto' expects {forecast.tokens / forecast.price:.0f} tokens/s"
    reason += f" ({rivals})" if rivals else ""
    reason += f", by {forecast.observed:.0f} recent calls of step {context.name!r}"
    if context.others:
        reason += f", {context.others} other calls live, all of them together"
    if variant != best:
        loss = forecast.regret / forecast.price
        reason += f"; tried to learn, {best} is thought {100 * loss:.0f} % quicker"
    hopeless = sorted(set(speeds) - {each.mode for each in comparison.chances})
    if hopeless:
        reason += f"; not tried, cannot pay even with every draft accepted: {', '.join(hopeless)}"
    return reason


def _late(deadline: float | None, forecast: Forecast) -> Sequence[str]:
    expected = forecast.seconds + forecast.prefill
    if deadline is None or expected <= deadline:
        return []
    return [f"deadline of {deadline:g} s is not expected to hold: the fastest allowed plan takes {expected:.2g} s"]
