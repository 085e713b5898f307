"""Groups of calls: by step name, else by prompt family, deterministic from the calls alone.

Knows recorded calls. Does not know results. A family is a system prompt (with numbers, dates and ids blanked, because
many prompts hold the time or a user's id), the tools, the schema and the kind of output.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trimode.policy.selection import StepKind

from .calls import RecordedCall

_VARIABLE: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{16,}\b|\d+", re.IGNORECASE)
"""UUIDs, digests and numbers."""
_SHOWN: Final = 60
"""Characters of a system prompt in a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Calls that are measured and routed together. `name`: the step, or `family-` and a digest. `label`: what it is, in
    words, with the beginning of the system prompt: content."""

    name: str
    label: str
    kinds: tuple[StepKind, ...]
    calls: tuple[RecordedCall, ...]

    @property
    def usable(self) -> tuple[RecordedCall, ...]:
        return tuple(call for call in self.calls if not call.unusable)

    @property
    def loops(self) -> int:
        """Number of loops with a call of this group."""
        return len({call.cluster for call in self.calls})


def grouped(calls: Sequence[RecordedCall]) -> list[Group]:
    """Returns the groups in the order of their names."""
    found: dict[str, list[RecordedCall]] = {}
    for call in calls:
        found.setdefault(call.step or family(call), []).append(call)
    return [
        Group(
            name=name,
            label=_label(members[0]),
            kinds=tuple(dict.fromkeys(call.kind for call in members)),
            calls=tuple(members),
        )
        for name, members in sorted(found.items())
    ]


def family(call: RecordedCall) -> str:
    """Returns the name of a call's prompt family."""
    system = _VARIABLE.sub("0", _system(call))
    parts = [call.kind, system, sorted(map(_text, call.tools)), _text(call.schema)]
    return f"family-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=dict)


def _system(call: RecordedCall) -> str:
    said = [message.get("content") for message in call.messages if message.get("role") in ("system", "developer")]
    return "\n".join(content if isinstance(content, str) else _text(content) for content in said)


def _label(call: RecordedCall) -> str:
    if call.step:
        return call.kind
    system = " ".join(_system(call).split())
    return f"{call.kind}: {system[:_SHOWN]}" + ("..." if len(system) > _SHOWN else "") if system else call.kind
