"""Types of the results and attempts that errors carry.

Knows plain values. Does not know why an output was refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trimode.engine.errors import TrimodeError

if TYPE_CHECKING:
    from trimode.engine.result import Stats


class RefusedResult(Protocol):
    """The `Result` of a call whose output was refused, as far as errors use it; it has no value."""

    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def thinking(self) -> str | None: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def valid(self) -> bool | None: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def audit_id(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A failed attempt under guarantee="checked": its seed, temperature and output, and the rule that it violated."""

    seed: int
    temperature: float
    text: str
    violation: str
    audit_id: str
    stats: Stats


class FinishedResult(RefusedResult, Protocol):
    """The `Result` of a call that finished, with its value."""

    @property
    def value(self) -> Any: ...


class WithResult(TrimodeError):
    """An error with the call's `result`, or None. A pickled copy has None."""

    result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, args, state) = super().__reduce__()
        return rebuild, (
            kind,
            args,
            {**state, "result": None},
        )  # a plan may contain locks and functions, which cannot be pickled
