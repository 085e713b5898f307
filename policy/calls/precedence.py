"""The plan of a call made without a step: by the same chain as a step's.

    package table < file of the working directory, or the session's policy < `using` < call

Knows scopes, policies and engines. Does not know the words of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..selection import Auto, DecodePlan, Guided, Layer, PolicyProtocol, StepContext, Weights, resolve, working_policy
from .scope import Scope, current_scope, overrides


@dataclass(frozen=True, slots=True)
class Choosing:
    """The engine that is called, its weights, other running calls, and where to get the policy "auto" of its weights,
    which may have to measure first."""

    engine: object
    weights: Weights
    live: int
    auto: Callable[[], Auto]


def planned(asked: Choosing, context: StepContext, given: Sequence[Layer], below: Sequence[Layer] = ()) -> DecodePlan:
    """The plan of a call that is made here on the engine of `asked`. Raises PolicyError, also for a broken file."""
    context = replace(context, others=asked.live)
    return resolve(context, policies_for(asked), [*overrides(), *given], asked.weights, below)


def policies_for(asked: Choosing) -> tuple[PolicyProtocol, ...]:
    """The policies in force here; outside a session, that of the working directory."""
    scope = current_scope()
    if scope.policies is None:
        found = working_policy()
        return () if found is None else (found,)
    if scope.engine is asked.engine:
        return scope.policies
    return tuple(_for_other(policy, asked.auto, scope) for policy in scope.policies)


def _for_other(policy: PolicyProtocol, auto: Callable[[], Auto], scope: Scope) -> PolicyProtocol:
    """The session's policy for an engine that is not the session's: "auto" learns by weights and by machine."""
    if not isinstance(policy, Auto | Guided):
        return policy
    own = auto()
    if not any(own is known for known in scope.learning):
        scope.learning.append(own)
    return own if isinstance(policy, Auto) else Guided(policy.table, own)
