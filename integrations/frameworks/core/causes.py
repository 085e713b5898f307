"""Why a call failed, in the few classes that frameworks tell apart.

Knows trimode's errors. Does not know the frameworks' own: each adapter has a table from `Cause` to them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Literal

from trimode.engine.errors import CallCancelled, PromptTooLong, QueueFull, RequestError, TrimodeError
from trimode.policy.errors import BudgetExceeded, OutputRefused, PolicyError, SchemaError, StepError

Cause = Literal["too_long", "overloaded", "budget", "output", "invalid", "cancelled", "timeout", "internal"]
_CAUSES: Final[tuple[tuple[type[Exception], Cause], ...]] = (
    (PromptTooLong, "too_long"),
    (QueueFull, "overloaded"),
    (BudgetExceeded, "budget"),
    (OutputRefused, "output"),
    (RequestError, "invalid"),
    (PolicyError, "invalid"),
    (SchemaError, "invalid"),
    (StepError, "invalid"),
    (CallCancelled, "cancelled"),
    (TimeoutError, "timeout"),
)
"""The first row whose class fits; any other error of trimode is "internal"."""


def cause_of(error: Exception) -> Cause:
    """Returns the class of a failure."""
    for kind, cause in _CAUSES:
        if isinstance(error, kind):
            return cause
    return "internal"


@contextmanager
def translated(made: Callable[[Cause, str], Exception]) -> Generator[None]:
    """Raises, for an error of trimode inside, what `made` returns of its cause and message; the error is its cause."""
    try:
        yield
    except (TrimodeError, TimeoutError) as error:
        raise made(cause_of(error), str(error) or type(error).__name__) from error
