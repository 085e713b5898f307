"""`policy="auto"`: the fastest mode that is allowed, from the cost of passes here and what was learned of each step.

Knows the cost model, past calls and how to explore within a budget. Exact modes agree on every token, so exploring and
switching can only cost time. Does not run anything: it is told what came of its plans. A plan is a function of what was
learned, the seed and the context; `lock` makes a fixed table of it.
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
    hopeful,
    loss_of,
    proposed,
    room,
)
from .feedback import learn
from .policies import DecodePlan, Forecast, Layer, Policy, StepContext, resolve
from .posterior import DRAFTING, KEYS, Learned, levels, step_of
from .pricing import AR, Cost, Passes, Variant
from .settings import MODES, STEP_KINDS, Settings, known_kind
from .switching import Breakeven

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult

VARIANTS: Final = (
    Variant("ar"),
    *(Variant("linear_spec", length) for length in (4, 6, 8, 16, 32)),
    *(Variant("quadratic_spec", length, rows) for length, rows in ((4, 1), (6, 1), (6, 2), (8, 2), (16, 2))),
    *(Variant("quadratic_spec", length) for length in (6, 12)),
    *(Variant("diffusion", length) for length in (8, 16, 32)),
)


@dataclass(slots=True)
class Auto:
    """A policy that learns; safe for threads. `modes`: what the weights can decode in. `path`: where `save` writes."""

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
    _standing: dict[str, CachedComparison] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """The digest is that of the rules; what was learned by then is in each plan's reason."""
        rules = [self.version, self.seed, SHARE, GRACE, *map(str, self.variants), self.cost.as_dict()]
        self.sha256 = hashlib.sha256(json.dumps(rules).encode()).hexdigest()

    @classmethod
    def kept(cls, cost: CostModel, modes: Sequence[Mode], path: Path) -> Auto:
        """With what earlier processes learned, if that file can be read (CacheWarning, and set aside, if not)."""
        learned = store.read(path, "auto", Learned.of) or Learned()
        return cls(cost, learned, modes, path=path)

    def save(self) -> None:
        if self.path is not None:
            with self._lock:
                store.write(self.path, "auto", self.learned.as_dict())

    def resolve(self, context: StepContext) -> DecodePlan:
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:  # noqa: ARG002
        """Nothing: it names no mode where somebody else does."""
        return []

    def advise(self, plan: DecodePlan) -> DecodePlan:
        with self._lock:
            found = self._decided(plan.context, plan.settings, plan.exact)
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

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Learns from a call that ran under `plan`, whoever chose its mode."""
        keys = levels(plan.context, plan.settings.temperature or 0.0)
        with self._lock:
            learn(self.cost, self.learned, plan, result)
            if plan.forecast is not None:
                self.learned.planned += 1
                for account in (self.learned, self.learned.evidence[keys[-1]]):
                    account.total += plan.forecast.price
                    account.spent += plan.forecast.regret
            news = plan.forecast is not None and plan.forecast.regret > 0
            self._stands(keys, news or any(made.switch for made in result.rounds))

    def lock(self, name: str = "locked") -> Policy:
        """What it would choose now, without exploring, as a fixed table: for every step and kind that it has seen."""
        with self._lock:
            kinds = {kind: self._settled(kind, kind, f"kind {kind}") for kind in STEP_KINDS}
            steps: dict[str, tuple[float, Settings]] = {}
            for key, found in self.learned.evidence.items():
                if (step := step_of(key)) is not None:
                    settings = self._settled(*step, key)
                    if settings is not None and found.calls >= steps.get(step[1], (0.0, settings))[0]:
                        steps[step[1]] = (found.calls, settings)
        return Policy(
            name=name,
            kinds={kind: settings for kind, settings in kinds.items() if settings is not None},
            steps={step: settings for step, (_, settings) in sorted(steps.items())},
        )

    def table(self, context: StepContext, settings: Settings, exact: bool = True) -> list[tuple[Variant, Cost]]:
        """What each variant is expected to cost, the cheapest first."""
        weighing = self._weighing(context, settings, self._offered(settings, exact))
        return sorted(weighing.expected().items(), key=lambda pair: pair[1].price)

    def _decided(self, context: StepContext, settings: Settings, exact: bool) -> Decision:
        *_, kind, key = levels(context, settings.temperature or 0.0)
        own = self.learned.evidence.get(key)
        weighed = self._weighed(kind if own is None else key, context, settings, exact)
        if settings.deadline is not None or len(weighed.chances) < 2:
            return weighed.decision
        # Calls that are live together may draw alike, and each of them would keep all the others waiting.
        a_call = weighed.prices[weighed.best].price
        left = room(self.learned, own or Evidence(), a_call) / (1 + context.others) ** 2
        if left <= 0 or left < weighed.least:
            return weighed.decision
        dice = Random(f"{self.seed} {self.learned.calls} {key}")
        chosen = proposed(weighed.weighing, weighed.prices, weighed.chances, left, dice)
        return weighed.decision if chosen == weighed.best else self._decision(context, settings, weighed, chosen)

    def _weighed(self, key: str, context: StepContext, settings: Settings, exact: bool) -> Comparison:
        """What was weighed by the evidence of `key` stands for a quarter of the calls in it, or until there is news of
        a mode. Steps that nobody has seen share what was weighed for their kind."""
        standing = self._standing.get(key)
        if standing is None:
            found = self.learned.evidence.get(key)
            if len(self._standing) >= KEYS:
                self._standing.clear()
            standing = self._standing[key] = CachedComparison(1 if found is None else max(int(found.calls / 4), 1))
        knobs = (settings.max_tokens, settings.block_length, settings.rows, settings.deadline)
        asked = (context.name, context.others, *knobs, exact)
        weighed = standing.weighed.get(asked)
        if weighed is None:
            weighed = standing.weighed[asked] = self._weigh(context, settings, exact)
        return weighed

    def _stands(self, keys: Iterable[str], news: bool) -> None:
        """One call more for what was weighed by these."""
        for key in keys:
            if (standing := self._standing.get(key)) is not None:
                standing.left -= 1
                if news or standing.left <= 0:
                    del self._standing[key]

    def _weigh(self, context: StepContext, settings: Settings, exact: bool) -> Comparison:
        offered = self._offered(settings, exact)
        if not offered:
            allowed = "an exact mode" if exact else "any mode"
            raise PolicyError(f"policy 'auto' found no way to decode: {allowed} with the knobs that were given")
        weighing = self._weighing(context, settings, offered)
        prices, late = weighing.expected(), settings.deadline is not None
        best = min(offered, key=lambda variant: prices[variant].seconds if late else prices[variant].price)
        chances = offered if late else hopeful(weighing.at_best(), prices, best)
        losses = (loss_of(other, prices, best) for other in chances if other != best)
        weighed = Comparison(weighing, prices, best, chances, min(losses, default=math.inf))
        weighed.decision = self._decision(context, settings, weighed, best)
        return weighed

    def _offered(self, settings: Settings, exact: bool) -> list[Variant]:
        """The variants that these weights and the caller allow, with the knobs that the caller has turned."""
        allowed = [v for v in self.variants if v.mode in self.modes and (v.mode in EXACT or not exact)]
        if settings.block_length is None and settings.rows is None:
            return allowed
        return list(dict.fromkeys(_turned(variant, settings) for variant in allowed))

    def _weighing(self, context: StepContext, settings: Settings, offered: Sequence[Variant]) -> Candidates:
        temperature = settings.temperature or 0.0
        keys = levels(context, temperature)
        modes: set[str] = {variant.mode for variant in offered}
        drafts = self.learned.of_drafts(keys)
        paces = {mode: self.learned.of_mode(mode).over(drafts if mode in DRAFTING else 0.0) for mode in modes}
        load = self.learned.workload(context, temperature, settings.max_tokens or 256)
        common = self.learned.pace + self.learned.of_step(keys).mean
        return Candidates(load, Passes(self.cost, load), offered, common, paces)

    def _decision(self, context: StepContext, settings: Settings, weighed: Comparison, variant: Variant) -> Decision:
        prices, best = weighed.prices, weighed.best
        temperature = settings.temperature or 0.0
        mine = self.learned.evidence.get(levels(context, temperature)[-1])
        cost = prices[variant]
        forecast = Forecast(
            seconds=cost.seconds,
            price=cost.price,
            passes=cost.passes,
            tokens=cost.tokens,
            regret=loss_of(variant, prices, best),
            observed=0.0 if mine is None else mine.calls,
            prefill=self.cost.seconds(self.learned.prefill(context, temperature)) * math.exp(self.learned.pace),
        )
        ar = prices.get(AR)
        controller = None
        if ar is not None and variant.mode in DRAFTING:
            controller = Breakeven(variant=str(variant), needed=cost.a_round[1] / ar.a_round[1])
        reason = _reason(variant, weighed, forecast, context)
        return Decision(variant, reason, controller, forecast, _late(settings.deadline, forecast))

    def _settled(self, kind: str, name: str, key: str) -> Settings | None:
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


def _turned(variant: Variant, settings: Settings) -> Variant:
    """A variant with the knobs that were said, where its mode has them."""
    if variant.mode == "ar" or (settings.block_length is None and settings.rows is None):
        return variant
    length = settings.block_length or variant.block_length
    if variant.mode == "quadratic_spec":
        return replace(variant, block_length=length, rows=settings.rows or variant.rows)
    return replace(variant, block_length=length)


def _reason(variant: Variant, weighed: Comparison, forecast: Forecast, context: StepContext) -> str:
    """`linear_spec:8: policy 'auto' expects 812 tokens/s (ar 640), by 23 calls of step 'act'`."""
    best, speeds = weighed.best, dict[str, float]()
    for each, cost in weighed.prices.items():
        if each.mode != variant.mode:
            speeds[each.mode] = max(cost.tokens / cost.price, speeds.get(each.mode, 0.0))
    rivals = ", ".join(f"{mode} {speeds[mode]:.0f}" for mode in sorted(speeds))
    words = f"{variant}: policy 'auto' expects {forecast.tokens / forecast.price:.0f} tokens/s"
    words += f" ({rivals})" if rivals else ""
    words += f", by {forecast.observed:.0f} recent calls of step {context.name!r}"
    if context.others:
        words += f", {context.others} other calls live, all of them together"
    if variant != best:
        loss = forecast.regret / forecast.price
        words += f"; tried to learn, {best} is thought {100 * loss:.0f} % quicker"
    hopeless = sorted(set(speeds) - {each.mode for each in weighed.chances})
    if hopeless:
        words += f"; not tried, cannot pay even with every draft accepted: {', '.join(hopeless)}"
    return words


def _late(deadline: float | None, forecast: Forecast) -> Sequence[str]:
    expected = forecast.seconds + forecast.prefill
    if deadline is None or expected <= deadline:
        return []
    return [f"deadline of {deadline:g} s is not expected to hold: the fastest allowed plan takes {expected:.2g} s"]
