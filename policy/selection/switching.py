"""When a call changes its mode: as soon as its rounds say that drafts cost more than they save, or where it is told.

Knows rounds and the break-even that a policy computed for them. Stateless, so that one may watch any number of calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trimode.engine.request import ArOptions, ExactOptions, Switch
from trimode.engine.result import Round

TOLERANCE: Final = 3.0
"""Decisions, each worth a pass of `ar`, that a bad run may lose before it counts: with less, good drafts are given up
by chance; what is lost is bounded by it, or by a few rounds where they cost more."""
PATIENCE: Final = 2.0
"""Rounds that may be lost: a single bad one says little of drafts that have to be long to pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakeven:
    """`needed`: decisions that a round of `variant` must make to be worth its seconds in `ar`."""

    variant: str
    needed: float

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        """To `ar`, once a run of rounds has lost more than is tolerated (a one-sided cumulative sum)."""
        if options.mode == "ar":
            return None
        lost, made, count = 0.0, 0, 0
        for one in rounds[1:]:  # the first is the prompt's
            if not one.drafted and options.mode == "linear_spec":
                continue
            lost, made, count = lost + self.needed - one.unforced_tokens, made + one.unforced_tokens, count + 1
            if lost <= 0:
                lost, made, count = 0.0, 0, 0
        if lost <= max(TOLERANCE, PATIENCE * self.needed):
            return None
        words = f"{made / count:.1f} decisions a round over the last {count}, {self.needed:.1f} needed"
        return Switch(options=ArOptions(), reason=f"{self.variant} is under break-even: {words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The switches of a call that is decoded again, by the number of rounds before each."""

    switches: Mapping[int, Switch]

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:  # noqa: ARG002
        return self.switches.get(len(rounds))
