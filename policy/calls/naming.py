"""The step name and kind of calls that are made without a step: given by `with trimode.using(step=..., kind=...)`.

Knows one context-local value. Does not know how a name or a kind changes a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..selection import StepKind
from .in_force import InForce


@dataclass(frozen=True, slots=True)
class Naming:
    """What calls of an engine are recorded and planned as; None leaves it to the call.

    `step`: the name, else that of the engine's method. `kind`: the kind, where the call's own arguments leave it open.
    """

    step: str | None = None
    kind: StepKind | None = None


NAMING: Final = InForce("trimode_naming", Naming())


def current_naming() -> Naming:
    """Returns the name and kind of the current `using` blocks; of each, the innermost that was given."""
    return NAMING.get()
