"""What is in force around a call: the session (engine, policies, its scope) and the `using` overrides.

Knows one context variable of each; both follow threads started by asyncio and never leak into others. Does not know
how a step is built or decoded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from opentelemetry.trace import get_current_span

from ..audit import AuditFile, Redact
from ..calls import (
    Call,
    Engine,
    Recording,
    Result,
    Scope,
    StreamEvent,
    aattempted,
    attempted,
    current_scope,
    enter,
    leave,
)
from ..errors import PolicyError, StepError, error_type
from ..selection import Auto, Guided, Layer, Policy, PolicyProtocol, Settings, configured
from ..telemetry import OwnedSpan, names
from .budget import Budget, Ledger, Spending, Spent


@dataclass(slots=True)
class Session:
    """One agent run. `results` holds every step's result, in order of completion."""

    engine: Engine
    policies: tuple[PolicyProtocol, ...] = ()
    scope: Scope = field(default_factory=Scope)
    results: list[tuple[str, Result]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=lambda: Ledger(Budget()))

    @property
    def audit(self) -> AuditFile | None:
        return self.scope.audit

    @property
    def spent(self) -> Spent:
        """Tokens, passes and seconds of all calls so far, failed attempts included."""
        return self.ledger.spent

    def run(self, call: Call) -> Result:
        """One step's call, within the session's budget. Raises BudgetExceeded before an attempt that cannot start."""
        return self._keep(call, attempted(call, self._once))

    async def arun(self, call: Call) -> Result:
        """`run` for tasks."""
        return self._keep(call, await aattempted(call, self._aonce))

    def stream(self, call: Call) -> Generator[StreamEvent]:
        """`run`, piece by piece and in one attempt. A stream left early counts its time and what it has shown."""
        return self._stream(self.engine.recording(call, streamed=True))

    def astream(self, call: Call) -> AsyncGenerator[StreamEvent]:
        """`stream` for tasks."""
        return self._astream(self.engine.recording(call, streamed=True))

    def _stream(self, recording: Recording) -> Generator[StreamEvent]:
        with self.ledger.spending(recording.call) as spending, closing(self.engine.events(recording)) as events:
            recording.call = spending.call
            for event in events:
                self._seen(spending, event)
                yield event

    async def _astream(self, recording: Recording) -> AsyncGenerator[StreamEvent]:
        with self.ledger.spending(recording.call) as spending:
            recording.call = spending.call
            async with aclosing(self.engine.aevents(recording)) as events:
                async for event in events:
                    self._seen(spending, event)
                    yield event

    def _once(self, call: Call) -> Result:
        with self.ledger.spending(call) as spending:
            result = self.engine.run(spending.call)
            spending.count(result.stats)
            return result

    async def _aonce(self, call: Call) -> Result:
        with self.ledger.spending(call) as spending:
            result = await self.engine.arun(spending.call)
            spending.count(result.stats)
            return result

    def _seen(self, spending: Spending, event: StreamEvent) -> None:
        if event.result is not None:
            spending.count(event.result.stats)
            self._keep(spending.call, event.result)
        elif not event.provisional:
            spending.shown += len(self.engine.tokenizer.encode(event.text))

    def _keep(self, call: Call, result: Result) -> Result:
        self.results.append((call.kind, result))
        return result


_session: ContextVar[Session | None] = ContextVar("trimode_session", default=None)
_using: ContextVar[tuple[Layer, ...]] = ContextVar("trimode_using", default=())


@contextmanager
def session(
    engine: Engine,
    policy: PolicyProtocol | str | Path = "default",
    trace: str | AuditFile | None = None,
    *,
    agent: str | None = None,
    content: bool | None = None,
    redact: Redact | None = None,
    budget: Budget | None = None,
) -> Generator[Session]:
    """Steps called inside decode on `engine`; every call made inside, by whatever name, is recorded.

    `policy`: "default" takes `trimode.toml` or `[tool.trimode]` of the working directory if there is one; a path reads
    that file; a Policy is itself; "auto" is `engine.auto`, which learns the fastest mode of each step and keeps what it
    learned when the session ends; what `trimode.toml` says holds there too, and `auto` chooses where it names no mode.
    `trace="file:PATH"`, or an AuditFile, appends an audit record a call; `content` keeps
    text and token ids in it (by default only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says so).
    `agent`: the name of an `invoke_agent` span around the session. `redact(text)` returns what may be kept of a text:
    where it changes anything in a call, file and spans keep that call's text as changed, without ids and drafts.
    `budget` limits what all steps spend together: a step that cannot start raises BudgetExceeded, one that can is cut
    to what is left.
    """
    if isinstance(trace, AuditFile) and content is not None:
        raise PolicyError(f"content={content} and an AuditFile, which has its own: pass content to the AuditFile")
    audit = trace if isinstance(trace, AuditFile) else _audit(trace, content)
    policies = _policies(policy, engine)
    around = current_scope()
    span = None if agent is None else _agent_span(agent, engine, around)
    inherited = None if around.span is None else around.parent()
    scope = Scope(
        session=uuid4().hex,
        agent=around.agent if agent is None else agent,
        audit=audit,
        redact=redact,
        span=inherited if span is None else span.context,
        outside=get_current_span().get_span_context(),
    )
    current = Session(engine, policies, scope, ledger=Ledger(budget or Budget()))
    before, outer = _session.get(), enter(scope)
    _session.set(current)
    failed = None
    try:
        yield current
    except BaseException as error:
        failed = error_type(error)
        raise
    finally:
        if span is not None:
            span.end(failed)
        leave(scope, outer)
        if _session.get() is current:
            _session.set(before)
        for chooser in current.policies:
            if isinstance(chooser, Auto | Guided):
                chooser.save()


def _agent_span(agent: str, engine: Engine, around: Scope) -> OwnedSpan:
    about = {
        names.GEN_AI_OPERATION_NAME: names.INVOKE_AGENT,
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        names.GEN_AI_AGENT_NAME: agent,
        names.GEN_AI_REQUEST_MODEL: engine.runtime.model,
    }
    return OwnedSpan(f"{names.INVOKE_AGENT} {agent}", about, around.parent())


@contextmanager
def using(**settings: Any) -> Generator[None]:
    """Overrides every step's settings inside: `with trimode.using(mode="ar"): ...`. An inner one is stronger."""
    words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    layer = (f"using({words})", Settings.of(settings, "using()"))
    before, inside = _using.get(), (*_using.get(), layer)
    _using.set(inside)
    try:
        yield
    finally:
        if _using.get() is inside:
            _using.set(before)


def current_session() -> Session:
    found = _session.get()
    if found is None:
        raise StepError("a step was called outside a session; call it inside `with trimode.session(engine):`")
    return found


def overrides() -> tuple[Layer, ...]:
    return _using.get()


def _policies(policy: PolicyProtocol | str | Path, engine: Engine) -> tuple[PolicyProtocol, ...]:
    if not isinstance(policy, str | Path):
        return (policy,)
    if policy in ("auto", "default"):
        found = configured(Path.cwd())
        if policy == "auto":
            return (Guided(found, engine.auto) if found else engine.auto,)
        return (found,) if found else ()
    path = Path(policy)
    if path.suffix != ".toml":
        raise PolicyError(
            f"unknown policy {str(policy)!r}; pass 'default', 'auto', a Policy, or the path of a .toml file"
        )
    return (Policy.from_toml(path),)


def _audit(trace: str | None, content: bool | None) -> AuditFile | None:
    if trace is None:
        return None
    scheme, _, path = trace.partition(":") if isinstance(trace, str) else ("", "", "")
    if scheme != "file" or not path:
        raise PolicyError(f"trace={trace!r}: expected 'file:PATH' or an AuditFile")
    return AuditFile(Path(path), content=content)
