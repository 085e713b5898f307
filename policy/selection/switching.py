"""When a call switches its mode: once its rounds show that drafts cost more than they save, or by a given schedule.

Knows rounds and the break-even that a policy computed for them. Does not know calls: a controller has no state, so one
object can serve any number of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trimode.engine.options import ArOptions, ExactOptions, Switch
from trimode.engine.result import Round

TOLERANCE: Final = 3.0
"""Decisions, each worth a pass of `ar`, that drafting may lose before the call switches, because with less, good drafts
would be dropped by chance. It bounds the loss, except where PATIENCE rounds cost more."""
PATIENCE: Final = 2.0
"""Rounds that may be lost before the call switches, because one bad round says little where drafts are long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakeven:
    """`needed`: decisions that a round of `variant` must make to be worth its seconds in `ar`."""

    variant: str
    needed: float

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        """Switches to `ar` once consecutive rounds have lost more than is tolerated (a one-sided cumulative sum)."""
        if options.mode == "ar":
            return None
        loss, decisions, count = 0.0, 0, 0
        for round_ in rounds[1:]:  # the first round is the prompt's
            if not round_.drafted and options.mode != "quadratic_spec":
                continue  # such a round cost what one of ar does; in quadratic_spec it has paid for a draft
            loss, decisions, count = (
                loss + self.needed - round_.unforced_tokens,
                decisions + round_.unforced_tokens,
                count + 1,
            )
            if loss <= 0:
                loss, decisions, count = 0.0, 0, 0
        if loss <= max(TOLERANCE, PATIENCE * self.needed):
            return None
        numbers = f"{decisions / count:.1f} decisions a round over the last {count}, {self.needed:.1f} needed"
        return Switch(options=ArOptions(), reason=f"{self.variant} is under break-even: {numbers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The recorded switches of a call that is decoded again, by the number of rounds before each."""

    switches: Mapping[int, Switch]

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:  # noqa: ARG002
        return self.switches.get(len(rounds))
