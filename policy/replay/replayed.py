"""What came of one replay.

Knows outcomes. Does not know how calls are decoded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["same", "path", "valid", "different", "impossible"]
"""Outcomes of a replay. path: the same ids by other rounds; valid: not decoded again, but validated; impossible: there
is nothing to decode again, or this machine cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The result of a replay. `round` and `field`: the first difference; `causes`: descriptions of what differs from
    the recorded engine."""

    call: str
    outcome: Outcome
    message: str
    round: int | None = None
    field: str = ""
    then: str = ""
    now: str = ""
    causes: tuple[str, ...] = ()
