"""What stands around a call: the session's id, its audit file, its rule about content and its agent's span.

Knows spans and where a session's calls are written. Does not know engines, so that engines can ask it: a call is
recorded where it is made, however it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from ..audit import AuditFile, Redact
from ..telemetry import AgentSpan
from .in_force import InForce
from .trim import Trim


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`trim`: what is left out of a conversation that does not fit. `span`: the context of the agent's span, never made
    current. `outside`: the span that was current when the session opened. `counts`: the agent's span itself, which
    counts what the agent calls."""

    session: str | None = None
    agent: str | None = None
    audit: AuditFile | None = None
    redact: Redact | None = None
    trim: Trim | None = None
    span: Context | None = None
    outside: SpanContext | None = None
    counts: AgentSpan | None = None

    def parent(self) -> Context:
        """Where a new span belongs: under the current one if that was opened inside, else under the agent's."""
        inside = trace.get_current_span().get_span_context() != self.outside
        return otel.get_current() if self.span is None or inside else self.span


SCOPE: Final = InForce("trimode_scope", Scope())


def current_scope() -> Scope:
    return SCOPE.get()
