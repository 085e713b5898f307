"""Resolves the plan of a call made without a step, by the same precedence as for a step (weakest first):

    package table < file of the working directory, or the session's policy < `using` < call

Knows scopes, policies and engines. Does not know the keyword arguments of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..selection import (
    Auto,
    DecodePlan,
    Guided,
    Layer,
    PolicyProtocol,
    PoolAuto,
    StepContext,
    Weights,
    resolve,
    working_policy,
)
from .scope import Scope, current_scope, overrides


@dataclass(frozen=True, slots=True)
class TargetEngine:
    """The engine that a call is planned for. `live`: number of its other running or waiting calls.

    `auto`: returns the policy "auto" for its weights; a function, because it may have to measure the machine first.
    """

    engine: object
    weights: Weights
    live: int
    auto: Callable[[], Auto | PoolAuto]


def planned(
    target: TargetEngine, context: StepContext, given: Sequence[Layer], below: Sequence[Layer] = ()
) -> DecodePlan:
    """Returns the plan of a call on `target` in the current scope. Raises PolicyError, also for a broken file."""
    context = replace(context, others=target.live)
    return resolve(context, policies_for(target), [*overrides(), *given], target.weights, below)


def policies_for(target: TargetEngine) -> tuple[PolicyProtocol, ...]:
    """Returns the policies of the current session; outside a session, the one of the working directory, if any."""
    scope = current_scope()
    if scope.policies is None:
        found = working_policy()
        return () if found is None else (found,)
    if scope.engine is target.engine:
        return scope.policies
    return tuple(_for_other(policy, target.auto, scope) for policy in scope.policies)


def _for_other(policy: PolicyProtocol, auto: Callable[[], Auto | PoolAuto], scope: Scope) -> PolicyProtocol:
    """Returns `policy` adapted to an engine other than the session's.

    "auto" is replaced by the engine's own one, because its evidence is per weights and machine.
    """
    if not isinstance(policy, Auto | PoolAuto | Guided):
        return policy
    own = auto()
    if not any(own is known for known in scope.learning):
        scope.learning.append(own)
    return Guided(policy.table, own) if isinstance(policy, Guided) else own
