"""A circuit breaker: a pool that fails again and again is left alone for a while, then tried by one call.

Knows outcomes and a clock. Does not know calls. closed: calls go; open: none goes until the cooldown is over;
half-open: one call goes, and its outcome closes or opens the circuit. Each opening in a row doubles the cooldown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 6
"""Number of doublings of the cooldown."""


@dataclass(slots=True)
class Circuit:
    """The circuit of one pool, used by one thread. `failures`: in a row, after which it opens."""

    failures: int
    cooldown: float
    clock: Callable[[], float] = time.monotonic
    failed: int = 0
    _openings: int = 0
    _until: float | None = None
    _trying: bool = False

    def remaining(self) -> float:
        """Returns the seconds for which no call may go; 0 where one may."""
        if self._until is None:
            return 0.0
        if self._trying:
            return self.cooldown
        return max(self._until - self.clock(), 0.0)

    def begin(self) -> bool:
        """Returns whether a call may go, which then must end by `succeed`, `fail` or `abandon`."""
        if self.remaining() > 0:
            return False
        self._trying = self._until is not None
        return True

    def succeed(self) -> None:
        """Closes the circuit."""
        self.failed, self._openings, self._until, self._trying = 0, 0, None, False

    def fail(self) -> None:
        """Counts a failure, which may open the circuit."""
        self.failed += 1
        if self._trying or (self._until is None and self.failed >= self.failures):
            self._until = self.clock() + self.cooldown * 2 ** min(self._openings, LONGEST)
            self._openings += 1
        self._trying = False

    def abandon(self) -> None:
        """Ends a call that says nothing about the pool: cancelled by its caller, or refused for what it asked."""
        self._trying = False
