"""The table of kinds: what kind of step a framework's call is, without a word from its author.

Knows step kinds, and names that agents are given. Does not know frameworks or settings.
"""

from __future__ import annotations

import re
from typing import Any, Final

from trimode.policy.schema import Choice, Lark, Regex
from trimode.policy.selection import StepKind

DEFAULT_STEP: Final = "chat"
"""Name of a call for which the framework has none."""
_PLANNING: Final = re.compile(r"(?:^|[^a-z])(?:re)?plan(?:ner|ning|s)?(?:[^a-z]|$)", re.IGNORECASE)
"""Names of nodes and agents that plan: plan, planner, re-plan, plan_trip, TripPlanner written trip_planner."""
KINDS: Final[tuple[tuple[str, StepKind], ...]] = (
    ("tools, or thinking", "turn"),
    ("a JSON Schema or type", "json"),
    ("a regular expression, choice or grammar", "prose"),
    ("neither, and a name with the word plan, planner or planning", "plan"),
    ("neither", "prose"),
)
"""The table, as documents show it: what is asked for, and the kind; the first row that fits."""


def kind_of(in_parts: bool, schema: Any, name: str) -> StepKind:
    """Returns the kind of a call by the table.

    `in_parts`: whether calls of tools or thinking are told apart from text; `name`: of the step, node or agent.
    """
    if in_parts:
        return "turn"
    if isinstance(schema, Regex | Choice | Lark):
        return "prose"
    if schema is not None:
        return "json"
    return "plan" if _PLANNING.search(name) else "prose"
