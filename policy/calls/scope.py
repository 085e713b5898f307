"""What stands around a call: the session's id, policies, limits and audit file, its agent's span, and `using`.

Knows spans, policies and where a session's calls are written. Does not know engines, so that engines can ask it: a call
is recorded, limited and settled by policies where it is made, however it is made.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from trimode.engine.result import Stats

from ..audit import AuditFile, Redact
from ..conversation import Trim
from ..selection import Auto, Layer, PolicyProtocol
from ..telemetry import AgentSpan
from .call import Call
from .in_force import InForce


class Spend(Protocol):
    """One running call under a session's limits: `call` as they cut it; `shown`: tokens that a stream has shown."""

    call: Call
    shown: int

    def count(self, stats: Stats) -> None:
        """Counts what an attempt has cost."""
        ...


class Limits(Protocol):
    """What the calls of a session may spend together."""

    def spending(self, call: Call) -> AbstractContextManager[Spend]:
        """Surrounds one call. Raises BudgetExceeded where it cannot start."""
        ...


@dataclass(slots=True)
class Unlimited:
    """A call that nothing limits."""

    call: Call
    shown: int = 0

    def count(self, stats: Stats) -> None:
        """Keeps no count, because nobody asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`trim`: what is left out of a conversation that does not fit. `span`: the context of the agent's span, never made
    current. `outside`: the span that was current when the session opened. `counts`: the agent's span itself, which
    counts what the agent calls.

    `policies`: the session's, as made for `engine`; None outside a session. `learning`: policies that take the place
    of "auto" for other engines that are called inside, to be saved with it.
    """

    session: str | None = None
    agent: str | None = None
    audit: AuditFile | None = None
    redact: Redact | None = None
    trim: Trim | None = None
    span: Context | None = None
    outside: SpanContext | None = None
    counts: AgentSpan | None = None
    engine: object = None
    policies: tuple[PolicyProtocol, ...] | None = None
    limits: Limits | None = None
    learning: list[Auto] = field(default_factory=list)

    def spending(self, call: Call) -> AbstractContextManager[Spend]:
        return nullcontext(Unlimited(call)) if self.limits is None else self.limits.spending(call)

    def parent(self) -> Context:
        """Where a new span belongs: under the current one if that was opened inside, else under the agent's."""
        inside = trace.get_current_span().get_span_context() != self.outside
        return otel.get_current() if self.span is None or inside else self.span


SCOPE: Final = InForce("trimode_scope", Scope())
USING: Final = InForce[tuple[Layer, ...]]("trimode_using", ())


def current_scope() -> Scope:
    return SCOPE.get()


def overrides() -> tuple[Layer, ...]:
    """The settings of the current `using` blocks, the innermost last."""
    return USING.get()
