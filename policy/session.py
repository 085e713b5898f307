"""What is in force around a call: the session (engine, policies, audit file) and the `using` overrides.

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

from .audit import AuditFile
from .auto import Auto
from .engine import Engine
from .errors import PolicyError, StepError
from .resolve import Chooser, Layer, Policy, configured
from .result import Result
from .spec import Settings


@dataclass(slots=True)
class Session:
    """One agent run. `results` holds every step's result, in order of completion."""

    engine: Engine
    policies: tuple[Chooser, ...] = ()
    audit: AuditFile | None = None
    results: list[tuple[str, Result]] = field(default_factory=list)

    def keep(self, kind: str, result: Result) -> Result:
        self.results.append((kind, result))
        return result


_session: ContextVar[Session | None] = ContextVar("trimode_session", default=None)
_using: ContextVar[tuple[Layer, ...]] = ContextVar("trimode_using", default=())


@contextmanager
def session(
    engine: Engine,
    policy: Chooser | str | Path = "default",
    trace: str | None = None,
    *,
    content: bool | None = None,
) -> Generator[Session]:
    """Steps called inside decode on `engine`.

    `policy`: "default" takes `trimode.toml` or `[tool.trimode]` of the working directory if there is one; a path reads
    that file; a Policy is itself; "auto" is `engine.auto`, which learns the fastest mode of each step and keeps what it
    learned when the session ends. `trace="file:PATH"` appends an audit record a call; `content` keeps text and token
    ids in it (by default only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says so).
    """
    current = Session(engine, _policies(policy, engine), _audit(trace, content))
    token = _session.set(current)
    try:
        yield current
    finally:
        _session.reset(token)
        for chooser in current.policies:
            if isinstance(chooser, Auto):
                chooser.save()


@contextmanager
def using(**settings: Any) -> Generator[None]:
    """Overrides every step's settings inside: `with trimode.using(mode="ar"): ...`. An inner one is stronger."""
    words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    layer = (f"using({words})", Settings.of(settings, "using()"))
    token = _using.set((*_using.get(), layer))
    try:
        yield
    finally:
        _using.reset(token)


def current_session() -> Session:
    found = _session.get()
    if found is None:
        raise StepError("a step was called outside a session; call it inside `with trimode.session(engine):`")
    return found


def overrides() -> tuple[Layer, ...]:
    return _using.get()


def _policies(policy: Chooser | str | Path, engine: Engine) -> tuple[Chooser, ...]:
    if not isinstance(policy, str | Path):
        return (policy,)
    if policy == "auto":
        return (engine.auto,)
    if policy == "default":
        found = configured(Path.cwd())
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
    scheme, _, path = trace.partition(":")
    if scheme != "file" or not path:
        raise PolicyError(f"trace={trace!r}: expected 'file:PATH'")
    return AuditFile(Path(path), content=content)
