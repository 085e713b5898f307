"""Predictions checked: learned from half of the recorded calls, and compared with decoding the others again.

Knows records, policies, predictions and an engine. Does not know files or tables. A table chosen for being predicted
fastest is predicted too well on average, because the errors took part in the choice; decoding calls that it was not
made from tells how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trimode.engine.errors import TrimodeError

from ..audit import CallRecord, Runtime
from ..calls import Engine
from ..selection import STEP_KINDS, Learned, Policy, Settings, StepKind
from .decode_again import NO_CONTENT, Engines
from .under_policies import comparable, decoded_under
from .what_if import Check, Checks, counted_row, derived_row, learned_from, refused_share, tuned

if TYPE_CHECKING:
    from trimode.engine.result import Stats

MOST: Final = 8
"""Held-out calls of a step that are decoded again, at most."""
REPEATS: Final = 2
"""Times that each is decoded; the fastest counts, because other work can only slow a call down."""
AR: Final = Policy(name="ar", kinds={kind: Settings(mode="ar") for kind in STEP_KINDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A tuned policy with its checks. `refuted`: steps in which the predicted best mode was slower than `ar` when it
    was decoded; their mode is `ar`. `unchecked`: why nothing was decoded, empty where something was."""

    policy: Policy
    checks: Checks
    refuted: tuple[str, ...] = ()
    unchecked: str = ""


class _Loaded(Engines):
    """One engine for all records."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def of(self, runtime: Runtime) -> Engine:  # noqa: ARG002
        return self._engine


def halves(records: Iterable[CallRecord]) -> tuple[list[CallRecord], list[CallRecord]]:
    """Returns the calls to learn from and the held-out ones: every second call of each step."""
    seen, learning, held = Counter[tuple[str, str]](), list[CallRecord](), list[CallRecord]()
    for record in records:
        key = (record.step, record.kind)
        (held if seen[key] % 2 else learning).append(record)
        seen[key] += 1
    return learning, held


def checked(records: Sequence[CallRecord], policies: Sequence[Policy], engine: Engine) -> tuple[Checks, str]:
    """Returns the checks of every step that has held-out calls, or why there are none."""
    learning, held = halves(records)
    own = [record for record in held if record.runtime.model_sha256 == engine.runtime.model_sha256]
    found: dict[tuple[str, str, int], Check] = {}
    learned = learned_from(learning, engine.cost)
    try:
        for (step, kind), calls in sorted(comparable(own).items()):
            refused = refused_share([call for call in learning if (call.step, call.kind) == (step, kind)], learning)
            found |= _of_step(step, kind, calls[:MOST], policies, learned, refused, engine)
    except TrimodeError as error:  # the engine here cannot decode what another one recorded, or in that mode
        return {}, str(error)
    return found, "" if found else _why_not(held, own)


def tuned_and_checked(records: Sequence[CallRecord], engine: Engine, name: str = "tuned") -> Tuned:
    """Returns the best table by half of the calls, with `ar` where the others refute it; unchecked, that by all of
    them. Raises PolicyError where no call can be learned from."""
    policy = tuned(halves(records)[0], engine.cost, name, engine.weights)
    checks, why = checked(records, [policy], engine)
    if not checks:
        return Tuned(policy=tuned(records, engine.cost, name, engine.weights), checks={}, unchecked=why)
    ar, refuted = Settings(mode="ar"), list[str]()
    kinds, steps = dict(policy.kinds), dict(policy.steps)
    for (step, kind, _), check in checks.items():
        own = policy.steps.get(step) or policy.kinds.get(kind)
        if own is not None and own.mode != "ar" and check.against_ar < 1:
            kinds[kind] = steps[step] = ar
            refuted.append(step)
    return Tuned(policy=replace(policy, steps=steps, kinds=kinds), checks=checks, refuted=tuple(refuted))


def _of_step(
    step: str,
    kind: StepKind,
    calls: Sequence[CallRecord],
    policies: Sequence[Policy],
    learned: Learned,
    refused: float,
    engine: Engine,
) -> dict[tuple[str, str, int], Check]:
    """Returns the check of each policy. Each call is decoded under all of them before the next, so that they run under
    the same conditions."""
    one = _Loaded(engine)
    fastest = [[_fastest(call, kind, policy, one) for policy in (AR, *policies)] for call in calls]
    ar, *others = ([call[at] for call in fastest] for at in range(1 + len(policies)))
    base = counted_row(step, kind, AR.name, "ar", ar).tokens_per_s
    found: dict[tuple[str, str, int], Check] = {}
    for number, (policy, stats) in enumerate(zip(policies, others, strict=True)):
        expected = derived_row(step, kind, calls, policy, learned, engine.cost, engine.weights, refused)
        got = counted_row(step, kind, policy.name, expected.mode, stats)
        if got.tokens_per_s and expected.tokens_per_s and base:
            found[step, kind, number] = Check(
                policy=policy.name,
                calls=len(calls),
                predicted_tokens_per_s=expected.tokens_per_s,
                decoded_tokens_per_s=got.tokens_per_s,
                predicted_accepted=expected.accepted,
                decoded_accepted=got.accepted,
                against_ar=got.tokens_per_s / base,
            )
    return found


def _fastest(call: CallRecord, kind: StepKind, policy: Policy, engines: Engines) -> Stats:
    runs = [decoded_under(call, kind, policy, engines).stats for _ in range(REPEATS)]
    return min(runs, key=lambda stats: stats.seconds - stats.prefill_seconds)


def _why_not(held: Sequence[CallRecord], own: Sequence[CallRecord]) -> str:
    if not held:
        return "no step was recorded twice, so no call can be held out"
    if not own:
        return "the calls were recorded with other weights"
    if not any(record.has_content for record in own):
        return NO_CONTENT
    return "no held-out call can be decoded again"
