"""When a call stops drafting: as soon as its own rounds say that drafts cost more than they save.

Knows rounds and the break-even that a policy computed for them. Stateless, so that one may watch any number of calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trimode.engine.request import ArOptions, ExactOptions, Round, Switch

WINDOW: Final = 8
LEAST: Final = 2
WEIGHT: Final = 2.0
"""Rounds that the expectation counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakeven:
    """`needed`: decisions that a round must make to be worth its seconds in `ar`; `expected`: what was thought."""

    variant: str
    needed: float
    expected: float

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        """To `ar`, where the latest rounds, with what was expected before them, are under break-even."""
        if options.mode == "ar":
            return None
        recent = [made for made in rounds[1:][-WINDOW:] if made.drafted or options.mode == "quadratic_spec"]
        if len(recent) < LEAST:
            return None
        made = sum(len(one.origins) - one.origins.count("f") for one in recent)
        before = max(self.expected, self.needed)  # what was only tried is not held to be poor beforehand
        if (made + WEIGHT * before) / (len(recent) + WEIGHT) >= self.needed:
            return None
        words = f"{made / len(recent):.1f} decisions a round over the last {len(recent)}, {self.needed:.1f} needed"
        return Switch(options=ArOptions(), reason=f"{self.variant} is under break-even: {words}")
