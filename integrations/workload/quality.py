"""The quality that is asked for: one number, or one for each kind of step.

Knows numbers and kinds. Does not know results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimode.policy.selection import STEP_KINDS

from .refusals import RunRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """`every`: the least mean score of a group; `kinds`: other ones for kinds of steps."""

    every: float = 0.9
    kinds: Mapping[str, float] = field(default_factory=dict)

    def of(self, kinds: Sequence[str]) -> float:
        """Returns what a group of these kinds has to reach: the highest of theirs."""
        return max(self.kinds.get(kind, self.every) for kind in kinds)


def quality_of(given: Sequence[str]) -> Quality:
    """Reads `0.9` and `KIND=0.9`. Raises RunRefused."""
    every, kinds = Quality().every, dict[str, float]()
    for one in given:
        kind, equals, number = one.rpartition("=")
        value = _number(number)
        if value is None or (equals and kind not in STEP_KINDS):
            expected = f"a number from 0 to 1, or KIND=NUMBER with a kind of {', '.join(STEP_KINDS)}"
            raise RunRefused(f"--quality {one}: expected {expected}")
        if kind:
            kinds[kind] = value
        else:
            every = value
    return Quality(every=every, kinds=kinds)


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
