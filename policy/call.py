"""One call, fully resolved: the hand-off between what a caller said and what the engine does. Knows plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .resolve import DecodePlan
from .schema import Schema
from .spec import StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to write (`prompt`, raw, or `messages` for the chat template), under which plan, held to what."""

    step: str
    kind: StepKind
    plan: DecodePlan
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    schema: Schema | None = None
