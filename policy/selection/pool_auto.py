"""`policy="auto"` over endpoints: the mode whose pool is expected to answer a step soonest, by what past calls took.

Knows seconds, tokens and acceptance of finished calls, by step and mode. Does not know passes, because no server
reports what one costs: where the weights are here, `auto.py` predicts modes that never ran; here each has to be tried.
Trying costs at most SHARE of the time of all calls, and GRACE calls at the beginning of a step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from trimode.engine.locks import ForkSafeLock
from trimode.engine.result import EXACT, Mode

from .. import cache_file as store
from ..errors import PolicyError
from .policies import DecodePlan, Layer, StepContext, resolve
from .posterior import levels

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult

SHARE: Final = 0.02
"""Part of the seconds of all calls that trying slower pools may cost; more than `auto`'s own, which can predict."""
GRACE: Final = 2
"""Calls of a step that may try each pool before any comparison."""
PRIOR: Final = 2.0
"""Calls that what is known of a pool in general counts for, against the calls of one step."""
SPREAD: Final = 0.3
"""Standard deviation of the log seconds of one call, before a step has enough calls to tell its own."""
MEMORY: Final = 50.0
"""Calls over which old ones fade, because a server's load changes."""


@dataclass(slots=True)
class PoolEvidence:
    """What calls of one step took in one mode: fading means. `log_pace`: log seconds for each output token, `first`:
    seconds to the first piece; `drafted`, `accepted`: where the server reports them."""

    calls: float = 0.0
    log_pace: float = 0.0
    first: float = 0.0
    tokens: float = 0.0
    drafted: float = 0.0
    accepted: float = 0.0

    def add(self, seconds: float, first: float, tokens: int, drafted: int, accepted: int) -> None:
        """Adds one call."""
        pace = math.log(max(seconds - first, 1e-6) / max(tokens, 1))
        self.calls = min(self.calls + 1, MEMORY)
        rate = 1 / self.calls
        self.log_pace += rate * (pace - self.log_pace)
        self.first += rate * (first - self.first)
        self.tokens += rate * (tokens - self.tokens)
        self.drafted += drafted
        self.accepted += accepted

    @property
    def acceptance(self) -> float | None:
        """Accepted of the drafted tokens; None where none were reported."""
        return self.accepted / self.drafted if self.drafted else None


@dataclass(frozen=True, slots=True)
class _Expected:
    seconds: float
    calls: float
    acceptance: float | None


@dataclass(slots=True)
class PoolAuto:
    """A policy that learns which pool is quick; safe for threads. `modes`: those of the pools. `path`: for `save`."""

    modes: Sequence[Mode]
    path: Path | None = None
    seed: int = 0
    name: str = "auto"
    version: str = "pools-1"
    sha256: str = field(init=False)
    spent: float = 0.0
    total: float = 0.0
    evidence: dict[str, PoolEvidence] = field(default_factory=dict)
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)
    _calls: int = 0

    def __post_init__(self) -> None:
        rules = f"{self.version} {self.seed} {SHARE} {GRACE} {PRIOR} {','.join(self.modes)}"
        self.sha256 = hashlib.sha256(rules.encode()).hexdigest()

    @classmethod
    def kept(cls, modes: Sequence[Mode], path: Path) -> PoolAuto:
        """Returns a policy with what earlier processes learned of the same pools."""
        found = cls(modes, path)
        found.evidence = store.read(path, "pools", _evidence) or {}
        return found

    def save(self) -> None:
        if self.path is not None:
            with self._lock:
                content = {key: {name: getattr(one, name) for name in _FIELDS} for key, one in self.evidence.items()}
                store.write(self.path, "pools", content)

    def resolve(self, context: StepContext) -> DecodePlan:
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:  # noqa: ARG002
        """Returns no layers, because `auto` never overrides a mode that somebody gave."""
        return []

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """Calls `choose_mode`, of which this is the former name, kept for one release."""
        return self.choose_mode(plan)

    def choose_mode(self, plan: DecodePlan) -> DecodePlan:
        """Returns the plan in the mode whose pool is expected to be soonest, or in one that is tried."""
        with self._lock:
            allowed = self._allowed(plan.exact)
            if not allowed:
                raise PolicyError("policy 'auto' found no pool that may serve the call; allow exact=False, or add one")
            mode, reason = self._chosen(plan.context, plan.settings.temperature or 0.0, allowed)
        return replace(plan, mode=mode, settings=replace(plan.settings, mode=mode), policy=self, reason=reason)

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Learns from a call that ran under `plan`, no matter who chose its mode."""
        stats, keys = result.stats, levels(plan.context, plan.settings.temperature or 0.0)
        seconds, first = stats.seconds, getattr(stats, "prefill_seconds", 0.0) or 0.0
        drafted, accepted = getattr(stats, "drafted", 0) or 0, getattr(stats, "accepted", 0) or 0
        with self._lock:
            self._calls += 1
            self.total += seconds
            others = [self._expected(keys, mode) for mode in self._allowed(plan.exact) if mode != plan.mode]
            known = [one.seconds for one in others if one.calls > 0]
            self.spent += max(seconds - min(known), 0.0) if known and self._calls > GRACE else 0.0
            for key in keys:
                found = self.evidence.setdefault(f"{key}|{plan.mode}", PoolEvidence())
                found.add(seconds, min(first, seconds), stats.output_tokens, drafted, accepted)

    def table(self, context: StepContext, temperature: float = 0.0) -> dict[Mode, float]:
        """Returns the expected seconds of a call of the step in each mode that was observed anywhere."""
        keys = levels(context, temperature)
        found: dict[Mode, _Expected] = {mode: self._expected(keys, mode) for mode in self.modes}
        return {mode: one.seconds for mode, one in found.items() if one.calls > 0}

    def _allowed(self, exact: bool) -> list[Mode]:
        """Returns the modes that may serve a call, in the order of the pools."""
        found: list[Mode] = [*self.modes]
        for mode in self.modes:
            if exact and mode not in EXACT:
                found.remove(mode)
        return found

    def _chosen(self, context: StepContext, temperature: float, allowed: Sequence[Mode]) -> tuple[Mode, str]:
        keys = levels(context, temperature)
        expected: dict[Mode, _Expected] = {mode: self._expected(keys, mode) for mode in allowed}
        untried: list[Mode] = [mode for mode in allowed if self._own(keys, mode) < GRACE]
        if untried:
            mode = min(untried, key=lambda one: (self._own(keys, one), allowed.index(one)))
            tried = int(self._own(keys, mode))
            return mode, f"{mode}: policy 'auto' has {tried} calls of step {context.name!r} by its pool, and tries it"
        best = min(allowed, key=lambda mode: expected[mode].seconds)
        mode = self._proposed(allowed, expected, best, keys[-1])
        return mode, _reason(mode, best, expected, context)

    def _proposed(self, allowed: Sequence[Mode], expected: dict[Mode, _Expected], best: Mode, key: str) -> Mode:
        """Returns the mode of one sample of the posterior if its loss is within what trying may cost, else `best`."""
        rng = Random(f"{self.seed} {self._calls} {key}")
        drawn = {
            mode: expected[mode].seconds * math.exp(rng.gauss(0, SPREAD / math.sqrt(max(expected[mode].calls, 1))))
            for mode in allowed
        }
        mode = min(allowed, key=lambda one: drawn[one])
        loss = expected[mode].seconds - expected[best].seconds
        return mode if self.spent + loss <= SHARE * self.total else best

    def _own(self, keys: Sequence[str], mode: Mode) -> float:
        found = self.evidence.get(f"{keys[-1]}|{mode}")
        return 0.0 if found is None else found.calls

    def _expected(self, keys: Sequence[str], mode: Mode) -> _Expected:
        """Returns the seconds of a call of average length: the step's own calls, completed by those of its kind."""
        found = [one for key in keys if (one := self.evidence.get(f"{key}|{mode}")) is not None]
        if not found:
            return _Expected(math.inf, 0.0, None)
        pace, first = found[0].log_pace, found[0].first
        for one in found[1:]:
            weight = one.calls / (one.calls + PRIOR)
            pace, first = pace + weight * (one.log_pace - pace), first + weight * (one.first - first)
        lengths = [one.tokens for other in self.modes if (one := self.evidence.get(f"{keys[-1]}|{other}")) is not None]
        tokens = sum(lengths) / len(lengths) if lengths else found[-1].tokens
        return _Expected(first + tokens * math.exp(pace), found[-1].calls, found[-1].acceptance)


_FIELDS: Final = ("calls", "log_pace", "first", "tokens", "drafted", "accepted")


def _evidence(content: Any) -> dict[str, PoolEvidence]:
    return {key: PoolEvidence(**{name: float(one[name]) for name in _FIELDS}) for key, one in content.items()}


def _reason(mode: Mode, best: Mode, expected: dict[Mode, _Expected], context: StepContext) -> str:
    """Returns a reason: `linear_spec: policy 'auto' expects 0.8 s (ar 1.1 s), by 9 calls of step 'act'`."""
    found = expected[mode]
    rivals = ", ".join(f"{one} {other.seconds:.2g} s" for one, other in sorted(expected.items()) if one != mode)
    accepted = "" if found.acceptance is None else f", {100 * found.acceptance:.0f} % of drafts accepted"
    tried = "" if mode == best else f"; tried to learn, {best} is thought quicker"
    return (
        f"{mode}: policy 'auto' expects {found.seconds:.2g} s{f' ({rivals})' if rivals else ''}{accepted}, by "
        f"{found.calls:.0f} calls of step {context.name!r}{tried}"
    )
