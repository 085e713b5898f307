"""What stands around a call: the session's id, its audit file, its rule about content and its agent's span.

Knows one context variable, which follows tasks and is empty in new threads. Does not know engines, so that engines can
ask it: a call is recorded where it is made, however it is made.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from ..audit import AuditFile, Redact
from .trim import Trim


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`trim`: what is left out of a conversation that does not fit. `span`: the agent's span, never made current.
    `outside`: the span that was current when the session opened."""

    session: str | None = None
    agent: str | None = None
    audit: AuditFile | None = None
    redact: Redact | None = None
    trim: Trim | None = None
    span: Context | None = None
    outside: SpanContext | None = None

    def parent(self) -> Context:
        """Where a new span belongs: under the current one if that was opened inside, else under the agent's."""
        inside = trace.get_current_span().get_span_context() != self.outside
        return otel.get_current() if self.span is None or inside else self.span


_scope: ContextVar[Scope] = ContextVar("trimode_scope", default=Scope())  # noqa: B039 - frozen


def current_scope() -> Scope:
    return _scope.get()


def enter(scope: Scope) -> Scope:
    """Puts `scope` in force; returns the one before, for `leave`."""
    before = _scope.get()
    _scope.set(scope)
    return before


def leave(scope: Scope, before: Scope) -> None:
    """Ends `scope`. Does nothing in another context, as when a generator that held it is closed by another task."""
    if _scope.get() is scope:
        _scope.set(before)
