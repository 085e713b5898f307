"""The plan of a call made without a step: by the same chain as a step's.

    package table < file of the working directory, or the session's policy < `using` < call

Knows scopes, policies and engines. Does not know the words of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ..selection import Auto, DecodePlan, Guided, Layer, PolicyProtocol, StepContext, Weights, resolve, working_policy
from .scope import Scope, current_scope, overrides


class Choosing(Protocol):
    """What is asked of an engine: its weights, running calls, and the policy "auto" of these weights."""

    @property
    def weights(self) -> Weights: ...
    @property
    def live(self) -> int: ...
    @property
    def auto(self) -> Auto: ...


def planned(engine: Choosing, context: StepContext, given: Sequence[Layer], below: Sequence[Layer] = ()) -> DecodePlan:
    """The plan of a call that is made here on `engine`. Raises PolicyError, also for a broken file."""
    context = replace(context, others=engine.live)
    return resolve(context, policies_for(engine), [*overrides(), *given], engine.weights, below)


def policies_for(engine: Choosing) -> tuple[PolicyProtocol, ...]:
    """The policies in force here; outside a session, that of the working directory."""
    scope = current_scope()
    if scope.policies is None:
        found = working_policy()
        return () if found is None else (found,)
    if scope.engine is engine:
        return scope.policies
    return tuple(_for_other(policy, engine, scope) for policy in scope.policies)


def _for_other(policy: PolicyProtocol, engine: Choosing, scope: Scope) -> PolicyProtocol:
    """The session's policy for an engine that is not the session's: "auto" learns by weights and by machine."""
    if not isinstance(policy, Auto | Guided):
        return policy
    if not any(engine.auto is known for known in scope.learning):
        scope.learning.append(engine.auto)
    return engine.auto if isinstance(policy, Auto) else Guided(policy.table, engine.auto)
