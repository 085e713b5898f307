"""The context of a call: the session's id, policies, limits and audit file, its agent's span, `using` blocks, and the
host's run around it: what an adapter names by `inside_host`, and the OpenTelemetry span.

Knows spans, policies and where a session's calls are recorded. Does not know engines, because engines read the scope:
every call is recorded, limited and planned by the scope in which it is made, whichever function makes it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from trimode.engine.result import Stats

from ..audit import AuditFile, HostRun, Redact, ServedBy
from ..conversation import Trim
from ..in_force import InForce
from ..selection import Auto, Layer, PolicyProtocol, PoolAuto
from ..telemetry import AgentSpan, names
from .call import Call
from .recent_outputs import RecentOutputs


class Spend(Protocol):
    """One running call under a session's limits.

    `call`: the call with its limits lowered to what the session has left. `shown`: tokens that a stream has yielded.
    """

    call: Call
    shown: int

    def count(self, stats: Stats) -> None:
        """Adds the cost of one attempt."""
        ...


class Limits(Protocol):
    """The limits on what all calls of a session spend together."""

    def spending(self, call: Call) -> AbstractContextManager[Spend]:
        """Returns a context manager to run one call in. Raises BudgetExceeded if the call cannot start."""
        ...


@dataclass(slots=True)
class Unlimited:
    """A call without limits."""

    call: Call
    shown: int = 0

    def count(self, stats: Stats) -> None:
        """Does nothing, because there is no limit to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The state that calls inherit from the session around them; no field is set outside a session.

    `trim`: which messages are dropped from a conversation that does not fit. `span`: the OpenTelemetry context of the
    agent's span, which is never made current. `outside`: the span that was current when the session opened. `counts`:
    the agent's span itself, which counts the agent's calls.

    `policies`: the session's policies, made for `engine`; None outside a session. `learning`: the "auto" policies of
    other engines that are called in the session; they are saved when the session's own "auto" is. `outputs`: those of
    its calls of `engine`. `served`: the replica and the accepted call, where several processes serve one model.
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
    learning: list[Auto | PoolAuto] = field(default_factory=list)
    outputs: RecentOutputs | None = None
    served: ServedBy | None = None

    def spending(self, call: Call) -> AbstractContextManager[Spend]:
        return nullcontext(Unlimited(call)) if self.limits is None else self.limits.spending(call)

    def outputs_of(self, engine: object) -> RecentOutputs | None:
        """Returns the session's recent outputs if they are token ids of `engine`."""
        return self.outputs if engine is self.engine else None

    def parent(self) -> Context:
        """Returns the parent context of new spans: the current span if it was opened inside, else the agent's."""
        inside = trace.get_current_span().get_span_context() != self.outside
        return otel.get_current() if self.span is None or inside else self.span


SCOPE: Final = InForce("trimode_scope", Scope())
USING: Final = InForce[tuple[Layer, ...]]("trimode_using", ())
HOST: Final = InForce("trimode_host", HostRun())


def current_scope() -> Scope:
    return SCOPE.get()


def overrides() -> tuple[Layer, ...]:
    """Returns the settings of the current `using` blocks, the innermost last."""
    return USING.get()


@contextmanager
def inside_host(host: HostRun) -> Generator[None]:
    """Records every call inside with these ids. An inner block replaces an outer one as a whole."""
    entered = HOST.enter(host)
    try:
        yield
    finally:
        HOST.leave(entered)


def host_around(parent: Context | None = None) -> HostRun:
    """Returns the ids in force, with those of the span of `parent` (default: the current one).

    A conversation that nobody named is that of the span, where the span has one.
    """
    host, span = HOST.get(), trace.get_current_span(parent)
    at = span.get_span_context()
    if not at.is_valid:
        return host
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    conversation = host.conversation or str(attributes.get(names.GEN_AI_CONVERSATION_ID) or "")
    ids = {"trace": trace.format_trace_id(at.trace_id), "span": trace.format_span_id(at.span_id)}
    return replace(host, conversation=conversation, **ids)
