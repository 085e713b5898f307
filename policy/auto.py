"""`policy="auto"`: the fastest mode that is allowed, from the cost of passes here and what was learned of each step.

Knows the cost model, past calls and how to explore within a budget. Exact modes agree on every token, so exploring and
switching can only cost time. Does not run anything: it is told what came of its plans. A plan is a function of what was
learned, the seed and the context; `lock` makes a fixed table of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Final

from trimode.engine.result import EXACT, Mode

from . import store
from .cost import Cost, Costing, CostModel, Variant
from .errors import PolicyError
from .learned import SPREAD, Evidence, Learned, Observation, levels, observed, step_of
from .resolve import DecodePlan, Forecast, Layer, Policy, StepContext, resolve
from .spec import MODES, STEP_KINDS, Settings, known_kind
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
SHARE: Final = 0.01
"""The part of expected decoding time that exploring may cost: of all steps, and of each one."""
GRACE: Final = 2.0
"""Beyond that share, in outputs of average length: without it a new policy could not try anything."""


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
    version: str = "1"
    sha256: str = field(init=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

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
            return self._advise(plan)

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Learns from a call that ran under `plan`, whoever chose its mode."""
        seen = self._seen(plan, result)
        with self._lock:
            self.learned.add(plan.context, plan.settings.temperature or 0.0, seen)
            if plan.forecast is not None:
                self.learned.planned += 1
                own = self.learned.evidence[levels(plan.context, plan.settings.temperature or 0.0)[-1]]
                for account in (self.learned, own):
                    account.total += plan.forecast.seconds
                    account.spent += plan.forecast.regret

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
        offered = self._offered(settings, exact)
        return sorted(self._prices(context, settings, offered).items(), key=lambda pair: pair[1].seconds)

    def _advise(self, plan: DecodePlan) -> DecodePlan:
        context, settings = plan.context, plan.settings
        offered = self._offered(settings, plan.exact)
        if not offered:
            allowed = "an exact mode" if plan.exact else "any mode"
            raise PolicyError(f"policy 'auto' found no way to decode: {allowed} with the knobs that were given")
        prices = self._prices(context, settings, offered)
        best = min(prices, key=lambda variant: prices[variant].seconds)
        tried = best if settings.deadline is not None else self._tried(context, settings, offered, prices, best)
        return self._plan(plan, prices, tried, best)

    def _offered(self, settings: Settings, exact: bool) -> list[Variant]:
        """The variants that these weights and the caller allow, with the knobs that the caller has turned."""
        allowed = [v for v in self.variants if v.mode in self.modes and (v.mode in EXACT or not exact)]
        return list(dict.fromkeys(_turned(variant, settings) for variant in allowed))

    def _prices(
        self,
        context: StepContext,
        settings: Settings,
        offered: Sequence[Variant],
        luck: Mapping[str, float] | None = None,
    ) -> dict[Variant, Cost]:
        """Expected cost by variant: the machine's, corrected by how each mode ran so far."""
        temperature = settings.temperature or 0.0
        load = self.learned.workload(context, temperature, settings.max_tokens or 256, luck)
        costing, keys = Costing(self.cost, load), levels(context, temperature)
        pace = {}
        for mode in {variant.mode for variant in offered}:
            guess = self.learned.relative(keys, mode)
            chance = -(luck or {}).get(mode, 0.0) * SPREAD / math.sqrt(guess.trials + 1)
            pace[mode] = math.exp(self.learned.pace + guess.mean + chance)
        return {variant: _slowed(costing.cost(variant), pace[variant.mode]) for variant in offered}

    def _tried(
        self,
        context: StepContext,
        settings: Settings,
        offered: Sequence[Variant],
        prices: Mapping[Variant, Cost],
        best: Variant,
    ) -> Variant:
        """Thompson sampling within a budget: the best by one draw of what is uncertain, if its expected loss fits."""
        key = levels(context, settings.temperature or 0.0)[-1]
        dice = Random(f"{self.seed} {self.learned.calls} {key}")
        luck: dict[str, float] = {mode: dice.gauss(0, 1) for mode in MODES}
        drawn = self._prices(context, settings, offered, luck)
        tried = min(drawn, key=lambda variant: drawn[variant].seconds)
        loss = prices[tried].seconds - prices[best].seconds
        # Calls that are live together may draw alike, and none of them knows what the others are about to spend.
        loss *= 1 + context.others
        a_call = self.learned.total / self.learned.planned if self.learned.planned else prices[best].seconds
        own = self.learned.evidence.get(key) or Evidence()
        fits = self.learned.spent + loss <= SHARE * self.learned.total + GRACE * a_call
        return tried if fits and own.spent + loss <= SHARE * own.total + GRACE * prices[best].seconds else best

    def _plan(self, plan: DecodePlan, prices: Mapping[Variant, Cost], variant: Variant, best: Variant) -> DecodePlan:
        context, settings = plan.context, variant.settings.over(plan.settings)
        temperature = settings.temperature or 0.0
        mine = self.learned.evidence.get(levels(context, temperature)[-1])
        cost = prices[variant]
        forecast = Forecast(
            seconds=cost.seconds,
            passes=cost.passes,
            tokens=cost.tokens,
            regret=cost.seconds - prices[best].seconds,
            observed=0.0 if mine is None else mine.calls,
            prefill=self.cost.seconds(self.learned.prefill(context, temperature)) * math.exp(self.learned.pace),
        )
        ar = prices.get(Variant("ar"))
        controller = None
        if ar is not None and variant.mode in ("linear_spec", "quadratic_spec"):
            controller = Breakeven(variant=str(variant), needed=cost.a_round[1] / ar.a_round[1])
        return replace(
            plan,
            mode=variant.mode,
            settings=settings,
            policy=self,
            reason=_reason(variant, best, cost, prices, forecast, context),
            controller=controller,
            forecast=forecast,
            notes=(*plan.notes, *_late(settings.deadline, forecast)),
        )

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

    def _seen(self, plan: DecodePlan, result: DecodeResult) -> Observation:
        stats = result.stats
        modes = {made.mode for made in result.rounds if made.forward_passes}
        took, pace = stats.seconds - stats.prefill_seconds, None
        if len(modes) == 1 and stats.forward_passes and took > 0:
            (mode,) = modes
            rows = stats.query_tokens / stats.forward_passes * (1 + plan.context.others)
            context = stats.prompt_tokens + stats.output_tokens / 2
            drafted = self.cost.seconds(rows, context, adapter=mode in ("linear_spec", "quadratic_spec"))
            plain = self.cost.seconds(rows, context)
            a_pass = {"linear_spec": (drafted + plain) / 2, "quadratic_spec": drafted}.get(mode, plain)
            pace = (mode, math.log(took / (stats.forward_passes * a_pass)))
        return Observation(
            **observed(result.rounds),
            prompt=stats.prompt_tokens,
            prefilled=stats.prefilled_tokens,
            others=plan.context.others,
            pace=pace,
        )


_BUCKETS: Final = {"0": 0.0, "low": 0.5, "mid": 1.0, "high": 1.5}


def _turned(variant: Variant, settings: Settings) -> Variant:
    """A variant with the knobs that were said, where its mode has them."""
    if variant.mode == "ar" or (settings.block_length is None and settings.rows is None):
        return variant
    length = settings.block_length or variant.block_length
    if variant.mode == "quadratic_spec":
        return replace(variant, block_length=length, rows=settings.rows or variant.rows)
    return replace(variant, block_length=length)


def _slowed(cost: Cost, by: float) -> Cost:
    made, seconds = cost.a_round
    return Cost(cost.seconds * by, cost.passes, cost.tokens, (made, seconds * by))


def _reason(
    variant: Variant,
    best: Variant,
    cost: Cost,
    prices: Mapping[Variant, Cost],
    forecast: Forecast,
    context: StepContext,
) -> str:
    """`linear_spec:8: policy 'auto' expects 812 tokens/s (ar 640), by 23 calls of step 'act'`."""
    others = {v.mode: prices[v] for v in sorted(prices, key=lambda v: -prices[v].seconds) if v.mode != variant.mode}
    rivals = ", ".join(f"{mode} {price.tokens_per_s:.0f}" for mode, price in sorted(others.items()))
    words = f"{variant}: policy 'auto' expects {cost.tokens_per_s:.0f} tokens/s"
    words += f" ({rivals})" if rivals else ""
    words += f", by {forecast.observed:.0f} recent calls of step {context.name!r}"
    if context.others:
        words += f", {context.others} other calls live"
    if variant != best:
        loss = forecast.regret / forecast.seconds
        words += f"; tried to learn, {best} is thought {100 * loss:.0f} % quicker"
    return words


def _late(deadline: float | None, forecast: Forecast) -> list[str]:
    expected = forecast.seconds + forecast.prefill
    if deadline is None or expected <= deadline:
        return []
    return [f"deadline of {deadline:g} s is not expected to hold: the fastest allowed plan takes {expected:.2g} s"]
