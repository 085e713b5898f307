"""The step name and kind of calls that are made without a step: given by `with trimode.using(step=..., kind=...)`.

Knows one context-local value, and which kinds a call may have. Does not know how a name or a kind changes a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import StepError
from ..in_force import InForce
from .settings import StepKind


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


def kind_given(step: StepKind | None, is_turn: bool, name: str) -> StepKind | None:
    """Returns the kind that a call's `step=` or `using` gives, None where it is open.

    `is_turn`: its other arguments are those of a turn. Raises StepError where they contradict the kind.
    """
    kind = step or current_naming().kind
    if not is_turn or kind == "turn":
        return kind
    if kind is not None:
        origin = f"step={kind!r}" if step else f"using(kind={kind!r}) around it"
        raise StepError(f"{name}(): tool_choice and parallel_tool_calls belong to a turn; leave out {origin}")
    return "turn"
