"""One recorded call as every reader gives it: what was asked, what came back, and what the log does not say.

Knows plain values. Does not know log formats, engines or scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from trimode.policy.selection import StepKind

Json = Any
Message = Mapping[str, Json]
Lack = Literal["prompt", "answer", "tools", "schema", "max_tokens", "temperature", "times", "usage", "loop"]
"""What a log may not say of a call."""
LACKS: Final[dict[Lack, str]] = {
    "prompt": "no prompt: the call cannot be asked again",
    "answer": "no answer: there is nothing to agree with",
    "tools": "it calls tools that the log does not describe: they are not held to their parameters",
    "schema": "JSON was asked for and no schema is in the log: the output is not held to one",
    "max_tokens": "no limit of output tokens: the engine's own is used",
    "temperature": "no temperature: 0 is used",
    "times": "no times: what runs now cannot be compared with it",
    "usage": "no token counts: it has no price per token",
    "loop": "no session, trace or conversation: each call counts as a loop of its own",
}
"""What each lack means for the call."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool's name and arguments; arguments that are no JSON are kept as text."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote: text, and calls of tools in order."""

    text: str = ""
    calls: tuple[ToolUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call and decoding passes; None where nobody said. `cached` is part of `input`."""

    input: int | None = None
    cached: int | None = None
    output: int | None = None
    passes: int | None = None

    @property
    def cached_share(self) -> float:
        """The share of the prompt that came out of a cache, 0 where nobody said."""
        return min((self.cached or 0) / self.input, 1.0) if self.input else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds from the request to the first and the last token; None where nobody measured."""

    first: float | None = None
    last: float | None = None


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """One call of a log. `id`: file and line, and the number within the line where it has several.

    `step`: the name that the log gives it, empty for none. `loop`: the session, trace or conversation, empty for none.
    One of `messages`, `prompt_ids` (tokens of `model`) is the prompt, or none is. `schema`: a JSON Schema, or the
    document of a text format. `choice`, `parallel`: OpenAI's `tool_choice` and `parallel_tool_calls`. `settings`:
    sampling and limits by the names of `Settings`. `ignored`: parameters of the request that are not asked for again.
    """

    id: str
    kind: StepKind
    step: str = ""
    loop: str = ""
    model: str = ""
    messages: tuple[Message, ...] = ()
    prompt_ids: tuple[int, ...] | None = None
    tools: tuple[Message, ...] = ()
    choice: Json = None
    parallel: bool | None = None
    schema: Json = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    answer: Answer | None = None
    times: Times = field(default_factory=Times)
    usage: Usage = field(default_factory=Usage)

    @property
    def lacks(self) -> tuple[Lack, ...]:
        """What the log does not say of this call."""
        answered = self.answer or Answer()
        found: dict[Lack, bool] = {
            "prompt": not self.messages and self.prompt_ids is None,
            "answer": self.answer is None,
            "tools": bool(answered.calls) and not self.tools,
            "schema": self.kind == "json" and self.schema is None,
            "max_tokens": "max_tokens" not in self.settings,
            "temperature": "temperature" not in self.settings,
            "times": self.times.last is None,
            "usage": self.usage.output is None,
            "loop": not self.loop,
        }
        return tuple(lack for lack, holds in found.items() if holds)

    @property
    def unusable(self) -> str:
        """Why the call cannot be measured; empty where it can."""
        if self.kind == "choice":
            return "a choice is scored in one pass, in every mode alike"
        return next((LACKS[lack] for lack in self.lacks if lack in ("prompt", "answer")), "")

    @cached_property
    def sha256(self) -> str:
        """The digest of what is asked, by which results of earlier runs are found again."""
        asked = (
            self.kind, self.messages, self.prompt_ids, self.tools, self.choice, self.parallel, self.schema,
            self.settings,
        )  # fmt: skip
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=dict).encode()).hexdigest()

    @property
    def cluster(self) -> str:
        """The loop, or the call itself: calls of one loop are not independent of each other."""
        return self.loop or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The calls of one or more files, and what was left out of them, counted by reason."""

    names: tuple[str, ...]
    calls: tuple[RecordedCall, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
