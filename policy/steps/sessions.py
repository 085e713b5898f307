"""The context of a call: the session (engine, policies, scope) and the `using` overrides.

Knows one context variable for each; both are inherited by threads that asyncio starts, and by no others. Does not know
how a step is defined or decoded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Unpack
from uuid import uuid4

from opentelemetry.trace import get_current_span

from ..audit import AuditFile, Redact
from ..calls import (
    SCOPE,
    USING,
    Call,
    Engine,
    RecentOutputs,
    Recording,
    Result,
    Scope,
    StreamEvent,
    aattempted,
    attempted,
    current_scope,
    overrides,
    session_html,
)
from ..conversation import TRIMS, Trim
from ..errors import PolicyError, StepError, error_type, shown
from ..in_force import InForce
from ..selection import (
    NAMING,
    STEP_KINDS,
    Auto,
    Guided,
    Naming,
    Policy,
    PolicyProtocol,
    PoolAuto,
    SettingArguments,
    Settings,
    StepKind,
    current_naming,
    working_policy,
)
from ..telemetry import AgentSpan
from .budget import Budget, Ledger, Spent


@dataclass(slots=True)
class Session:
    """One agent run. `results` holds every step's result, in order of completion."""

    engine: Engine
    policies: tuple[PolicyProtocol, ...] = ()
    scope: Scope = field(default_factory=Scope)
    results: list[tuple[str, Result]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=lambda: Ledger(Budget()))

    def __repr__(self) -> str:
        spent, names = self.spent, [policy.name for policy in self.policies]
        under = f"under {', '.join(names)}" if names else "under the package's table"
        return f"<Session {len(self.results)} steps, {spent.tokens} tokens in {spent.passes} passes, {under}>"

    def _repr_html_(self) -> str:
        """For notebooks: every step's text, each token in the colour of its origin."""
        return session_html(repr(self)[1:-1], [result for _, result in self.results])

    @property
    def audit(self) -> AuditFile | None:
        return self.scope.audit

    @property
    def spent(self) -> Spent:
        """Tokens, passes and seconds of all calls so far, failed attempts included."""
        return self.ledger.spent

    def run(self, call: Call) -> Result:
        """Runs one step's call. Raises BudgetExceeded before an attempt that the session's budget does not let
        start."""
        return self._keep(call, attempted(call, self.engine.run))

    async def arun(self, call: Call) -> Result:
        """Runs a call as `run` does, for tasks."""
        return self._keep(call, await aattempted(call, self.engine.arun))

    def stream(self, call: Call) -> Generator[StreamEvent]:
        """Streams a call, in one attempt. A stream left early counts its time and the tokens shown so far."""
        return self._stream(self.engine.recording(call, streamed=True))

    def astream(self, call: Call) -> AsyncGenerator[StreamEvent]:
        """Streams a call as `stream` does, for tasks."""
        return self._astream(self.engine.recording(call, streamed=True))

    def _stream(self, recording: Recording) -> Generator[StreamEvent]:
        with closing(self.engine.events(recording)) as events:
            for event in events:
                if event.result is not None:
                    self._keep(recording.call, event.result)
                yield event

    async def _astream(self, recording: Recording) -> AsyncGenerator[StreamEvent]:
        async with aclosing(self.engine.aevents(recording)) as events:
            async for event in events:
                if event.result is not None:
                    self._keep(recording.call, event.result)
                yield event

    def _keep(self, call: Call, result: Result) -> Result:
        self.results.append((call.kind, result))
        return result


_SESSION: Final = InForce[Session | None]("trimode_session", None)


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
    trim: Trim | None = None,
) -> Generator[Session]:
    """Opens a session: steps called inside decode on `engine`. Every call made inside, of a step or of an engine,
    follows the session's policy and is recorded and counted.

    `policy`: "default" reads `trimode.toml` or `[tool.trimode]` of the working directory if there is one; a path reads
    that file; a Policy is used as it is; "auto" is `engine.auto`, which learns the fastest mode of each step and saves
    what it learned when the session ends. With "auto", `trimode.toml` applies too, and `auto` chooses where that file
    gives no mode. `trace="file:PATH"`, or an AuditFile, appends an audit record for each call; `content` keeps text and
    token ids in it (by default only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT allows it). `agent`: the
    name of an `invoke_agent` span around the session. `redact(text)` returns what may be kept of a text: where it
    changes anything in a call, file and spans keep the changed text, without ids and drafts. `budget` limits what all
    calls spend together: one that cannot start raises BudgetExceeded, and others are cut to the remaining budget.
    `trim="oldest"` leaves out the oldest turns of a conversation that does not fit the context, with a note; a tool's
    answer goes with its call. Raises PolicyError for arguments of other types.
    """
    _check(engine=engine, trace=trace, agent=agent, content=content, redact=redact, budget=budget, trim=trim)
    if isinstance(trace, AuditFile) and content is not None:
        raise PolicyError(f"content={content} and an AuditFile, which has its own: pass content to the AuditFile")
    audit = trace if isinstance(trace, AuditFile) else _audit(trace, content)
    policies = _policies(policy, engine)
    around = current_scope()
    span = None if agent is None else AgentSpan(agent, engine.runtime.model, around.parent())
    inherited = None if around.span is None else around.parent()
    ledger = Ledger(budget or Budget())
    scope = Scope(
        session=uuid4().hex,
        agent=around.agent if agent is None else agent,
        audit=audit,
        redact=redact,
        trim=trim,
        span=inherited if span is None else span.context,
        outside=get_current_span().get_span_context(),
        counts=around.counts if span is None else span,
        engine=engine,
        policies=policies,
        limits=ledger,
        outputs=RecentOutputs(),
    )
    current = Session(engine, policies, scope, ledger=ledger)
    inside, entered = SCOPE.enter(scope), _SESSION.enter(current)
    failed = None
    try:
        yield current
    except BaseException as error:
        failed = error_type(error)
        raise
    finally:
        if span is not None:
            span.end(failed)
        _SESSION.leave(entered)
        SCOPE.leave(inside)
        for learning in (*current.policies, *scope.learning):
            if isinstance(learning, Auto | Guided | PoolAuto):
                learning.save()


def _check(**given: Any) -> None:
    fits = {
        "engine": (isinstance(given["engine"], Engine), "an Engine, as Engine.load() makes it"),
        "trace": (isinstance(given["trace"], str | AuditFile | None), "'file:PATH' or an AuditFile"),
        "agent": (isinstance(given["agent"], str | None), "the agent's name"),
        "content": (isinstance(given["content"], bool | None), "true or false"),
        "redact": (given["redact"] is None or callable(given["redact"]), "a function of a text"),
        "budget": (isinstance(given["budget"], Budget | None), "a Budget"),
        "trim": (given["trim"] in (None, *TRIMS), " or ".join(map(repr, TRIMS))),
    }
    for name, (ok, expected) in fits.items():
        if not ok:
            raise PolicyError(f"session({name}={shown(given[name])}): expected {expected}")


@contextmanager
def using(
    *, step: str | None = None, kind: StepKind | None = None, **settings: Unpack[SettingArguments]
) -> Generator[None]:
    """Overrides the settings of every call inside, of a step or of an engine: `with trimode.using(mode="ar"): ...`.

    `step` and `kind` name the calls that are made of an engine without a step, for policies, spans and records; a step
    has a name and a kind of its own, and so has a call with a `step=` argument a kind. An inner override is stronger.
    Raises PolicyError for a name that is none, and for unknown kinds and settings."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    layer = (f"using({arguments})", Settings.of(settings, "using()"))
    named = NAMING.enter(_named(step, kind))
    entered = USING.enter((*overrides(), layer))
    try:
        yield
    finally:
        USING.leave(entered)
        NAMING.leave(named)


def _named(step: Any, kind: Any) -> Naming:
    """Returns the naming in force, changed by what is given."""
    if step is not None and (not isinstance(step, str) or not step.strip()):
        raise PolicyError(f"using(step={shown(step)}): expected the name of a step")
    if kind is not None and kind not in STEP_KINDS:
        raise PolicyError(f"using(kind={shown(kind)}): unknown step kind; known: {', '.join(STEP_KINDS)}")
    around = current_naming()
    return Naming(around.step if step is None else step, around.kind if kind is None else kind)


def current_session() -> Session:
    """Returns the current session. Raises StepError outside of one."""
    found = _SESSION.get()
    if found is None:
        raise StepError("a step was called outside a session; call it inside `with trimode.session(engine):`")
    return found


def _policies(policy: PolicyProtocol | str | Path, engine: Engine) -> tuple[PolicyProtocol, ...]:
    if not isinstance(policy, str | Path):
        if not all(callable(getattr(policy, name, None)) for name in ("resolve", "layers", "advise", "observe")):
            raise PolicyError(
                f"policy={shown(policy)}: expected 'default', 'auto', a Policy, or the path of a .toml file"
            )
        return (policy,)
    if policy in ("auto", "default"):
        found = working_policy()
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
