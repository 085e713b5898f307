"""What happens to an ask, in the words of no API: every API's writer makes its own documents of these events.

Knows text, calls and counts. Does not know the engine or HTTP. For each choice come, in order: `Started`, any number of
deltas, `Finished`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCall:
    """One tool call of a finished output. `arguments`: its JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one choice. `cached`: prompt tokens found in the prefix cache; `thinking` is part of `output`."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    thinking: int = 0
    accepted: int = 0
    rejected: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Returns the sum over choices of one prompt, which is counted once."""
        return Usage(
            prompt=max(self.prompt, other.prompt),
            cached=min(self.cached, other.cached),
            output=self.output + other.output,
            thinking=self.thinking + other.thinking,
            accepted=self.accepted + other.accepted,
            rejected=self.rejected + other.rejected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """A token of the output, its log-probability in nats, and those of the likeliest tokens in its place."""

    token: str
    logprob: float
    top: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The call was handed to the engine. `mode`: the one it begins in. `prompt`: tokens of the prompt. `replica`: which
    one decodes it; empty where one process serves."""

    choice: int
    record: str
    mode: str
    kind: str
    prompt: int = 0
    replica: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    choice: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta:
    choice: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """A piece of a tool call. `id` and `name` are set in the first piece of each call alone."""

    choice: int
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The whole output. `report`: how it was decoded, for the field `trimode` of the response."""

    choice: int
    content: str | None
    thinking: str | None
    calls: tuple[MadeCall, ...]
    finish: Finish
    usage: Usage
    report: Mapping[str, Any]
    logprobs: tuple[Logprob, ...] | None = None
    token_ids: tuple[int, ...] = field(default=(), repr=False)


Event = Started | TextDelta | ThinkingDelta | CallDelta | Finished
