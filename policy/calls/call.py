"""One fully resolved call, as plain values: a prompt, a plan, and what constrains the output.

Knows prompts, schemas and plans. Does not know engines, sessions, or the keyword arguments of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode.engine.result import Mode

from ..schema import Target, TurnTarget
from ..selection import (
    DecodePlan,
    StepKind,
)
from ..turns import Segments
from .choice import candidates_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prompt (`prompt`, raw; `prompt_ids`; or `messages` for the chat template), a plan and an optional schema.

    `continued`: the output continues the last message, an assistant's. `notes`: changes made before the engine gets
    the call. `retried`: an earlier attempt violated a rule that the grammar does not enforce, so the guarantee of this
    one is "checked" even if its grammar enforces the whole schema. `max_passes`, `max_seconds`: what is left of the
    session's budget. `turn`, `segments`: of a turn, the parts that it may have and the plan of each kind of them.
    """

    step: str
    kind: StepKind
    plan: DecodePlan
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    continued: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    schema: Target | None = None
    turn: TurnTarget | None = None
    segments: Segments = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    retried: bool = False
    max_passes: int | None = None
    max_seconds: float | None = None
    cache_scope: str | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The strings that a choice step chooses from. Raises StepError if the schema lists none."""
        return candidates_of(self.schema)

    @property
    def modes(self) -> frozenset[Mode]:
        """Modes that begin the output or a segment of it."""
        return frozenset({self.plan.mode, *(plan.mode for plan in self.segments.values())})

    @property
    def used_ids(self) -> frozenset[str]:
        """Ids of the tool calls in the conversation."""
        return frozenset(str(one.get("id")) for message in self.messages for one in message.get("tool_calls") or ())

    @property
    def characters(self) -> int:
        """Number of characters of the prompt or messages that have to be tokenized."""
        return len(self.prompt or "") + sum(len(message["content"]) for message in self.messages)
