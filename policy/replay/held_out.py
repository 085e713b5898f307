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
from .under_policies import Decoded, comparable, decoded_under
from .what_if import Check, counted_row, derived_row, learned_from, refused_share, tuned

if TYPE_CHECKING:
    from trimode.engine.result import Stats

MOST: Final = 8
"""Held-out calls of a step that are decoded again, at most."""
REPEATS: Final = 2
"""Times that each is decoded; the fastest counts, because other work can only slow a call down."""
AR: Final = Policy(name="ar", kinds={kind: Settings(mode="ar") for kind in STEP_KINDS})
Checks = dict[tuple[str, str], Check]
"""By (step, name of the policy)."""


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
    found: Checks = {}
    learned = learned_from(learning, engine.cost)
    try:
        for (step, kind), calls in sorted(comparable(own).items()):
            refused = refused_share([call for call in learning if call.step == step], learning)
            found |= _of_step(step, kind, calls[:MOST], policies, learned, refused, engine)
    except TrimodeError as error:  # this machine cannot decode what another one recorded
        return {}, str(error)
    return found, "" if found else _why_not(held, own)


def tuned_and_checked(records: Sequence[CallRecord], engine: Engine, name: str = "tuned") -> Tuned:
    """Returns the best table by half of the calls, with `ar` where the others refute it; unchecked, that by all of
    them. Raises PolicyError where no call can be learned from."""
    policy = tuned(halves(records)[0], engine.cost, name, engine.weights)
    checks, why = checked(records, [policy], engine)
    if not checks:
        return Tuned(policy=tuned(records, engine.cost, name, engine.weights), checks={}, unchecked=why)
    kinds = {record.step: record.kind for record in records}
    modes = {**{step: policy.kinds.get(kind) for step, kind in kinds.items()}, **policy.steps}
    drafting = {step for step, found in modes.items() if found is not None and found.mode != "ar"}
    refuted = tuple(step for (step, _), check in checks.items() if step in drafting and check.against_ar < 1)
    ar = Settings(mode="ar")
    return Tuned(
        policy=replace(
            policy,
            steps={**policy.steps, **dict.fromkeys(refuted, ar)},
            kinds={**policy.kinds, **{kinds[step]: ar for step in refuted}},
        ),
        checks=checks,
        refuted=refuted,
    )


def _of_step(
    step: str,
    kind: StepKind,
    calls: Sequence[CallRecord],
    policies: Sequence[Policy],
    learned: Learned,
    refused: float,
    engine: Engine,
) -> Checks:
    one = _Loaded(engine)
    times: dict[str, list[Decoded]] = {}
    for call in calls:
        for policy in (AR, *policies):  # each call under all of them, so that they run under the same conditions
            runs = [decoded_under(call, kind, policy, one) for _ in range(REPEATS)]
            times.setdefault(_key(policy), []).append(min(runs, key=lambda run: _decoding(run.stats)))
    ar = _speed([run.stats for run in times[_key(AR)]])
    found: Checks = {}
    for policy in policies:
        stats = [run.stats for run in times[_key(policy)]]
        expected = derived_row(step, kind, calls, policy, learned, engine.cost, engine.weights, refused)
        got = counted_row(step, kind, policy.name, expected.mode, stats)
        if got.tokens_per_s and expected.tokens_per_s and ar:
            found[step, policy.name] = Check(
                calls=len(calls),
                predicted_tokens_per_s=expected.tokens_per_s,
                decoded_tokens_per_s=got.tokens_per_s,
                predicted_accepted=expected.accepted,
                decoded_accepted=got.accepted,
                against_ar=got.tokens_per_s / ar,
            )
    return found


def _key(policy: Policy) -> str:
    return f"{policy.sha256} {policy.name}"


def _decoding(stats: Stats) -> float:
    return stats.seconds - stats.prefill_seconds


def _speed(stats: Sequence[Stats]) -> float:
    seconds = sum(map(_decoding, stats))
    return sum(each.output_tokens for each in stats) / seconds if seconds > 0 else 0.0


def _why_not(held: Sequence[CallRecord], own: Sequence[CallRecord]) -> str:
    if not held:
        return "no step was recorded twice, so no call can be held out"
    if not own:
        return "the calls were recorded with other weights"
    if not any(record.has_content for record in own):
        return NO_CONTENT
    return "no held-out call can be decoded again"
