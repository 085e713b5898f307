"""What is in force around a call: the session (engine, policies, its scope) and the `using` overrides.

Knows one context variable of each; both follow threads started by asyncio and never leak into others. Does not know
how a step is built or decoded.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from opentelemetry.trace import get_current_span

from . import names
from .audit import AuditFile
from .engine import Engine
from .errors import PolicyError, StepError
from .record import error_type
from .redaction import Redact
from .resolve import Layer, Policy, configured
from .result import Result
from .scope import Scope, current_scope, enter, leave
from .spec import Settings
from .telemetry import OwnedSpan


@dataclass(slots=True)
class Session:
    """One agent run. `results` holds every step's result, in order of completion."""

    engine: Engine
    policies: tuple[Policy, ...] = ()
    scope: Scope = field(default_factory=Scope)
    results: list[tuple[str, Result]] = field(default_factory=list)

    @property
    def audit(self) -> AuditFile | None:
        return self.scope.audit

    def keep(self, kind: str, result: Result) -> Result:
        self.results.append((kind, result))
        return result


_session: ContextVar[Session | None] = ContextVar("trimode_session", default=None)
_using: ContextVar[tuple[Layer, ...]] = ContextVar("trimode_using", default=())


@contextmanager
def session(
    engine: Engine,
    policy: Policy | str | Path = "default",
    trace: str | AuditFile | None = None,
    *,
    agent: str | None = None,
    content: bool | None = None,
    redact: Redact | None = None,
) -> Generator[Session]:
    """Steps called inside decode on `engine`; every call made inside, by whatever name, is recorded.

    `policy`: "default" takes `trimode.toml` or `[tool.trimode]` of the working directory if there is one; a path reads
    that file; a Policy is itself. `trace="file:PATH"`, or an AuditFile, appends an audit record a call; `content` keeps
    text and token ids in it (by default only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says so).
    `agent`: the name of an `invoke_agent` span around the session. `redact(text)` returns what may be kept of a text:
    where it changes anything in a call, file and spans keep that call's text as changed, without ids and drafts.
    """
    if isinstance(trace, AuditFile) and content is not None:
        raise PolicyError(f"content={content} and an AuditFile, which has its own: pass content to the AuditFile")
    audit = trace if isinstance(trace, AuditFile) else _audit(trace, content)
    policies = _policies(policy)
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
    current, before, outer = Session(engine, policies, scope), _session.get(), enter(scope)
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


def _policies(policy: Policy | str | Path) -> tuple[Policy, ...]:
    if isinstance(policy, Policy):
        return (policy,)
    if policy == "default":
        found = configured(Path.cwd())
        return (found,) if found else ()
    path = Path(policy)
    if path.suffix != ".toml":
        raise PolicyError(f"unknown policy {str(policy)!r}; pass 'default', a Policy, or the path of a .toml file")
    return (Policy.from_toml(path),)


def _audit(trace: str | None, content: bool | None) -> AuditFile | None:
    if trace is None:
        return None
    scheme, _, path = trace.partition(":")
    if scheme != "file" or not path:
        raise PolicyError(f"trace={trace!r}: expected 'file:PATH'")
    return AuditFile(Path(path), content=content)
