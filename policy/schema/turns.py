"""Turns: output in which a model talks and calls tools as it likes, or as a caller requires.

Knows which parts a turn may have, and how calls are written between them. Does not know tokens, chat templates, or who
tells parts apart while they are decoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, get_args

from pydantic import ConfigDict

from ..errors import SchemaError, SchemaViolation, shown
from .targets import Schema, Target, ToolCall, called, schema_of
from .tool_shapes import ToolShape

ToolChoice = Literal["auto", "none", "required"]
"""Whether a turn may call tools: as the model likes, not at all, or at least once and without prose."""
TOOL_CHOICES: Final[tuple[ToolChoice, ...]] = get_args(ToolChoice)
SegmentKind = Literal["thinking", "prose", "tool_call", "json"]
"""Kinds of the parts of a turn."""
SEGMENT_KINDS: Final[tuple[SegmentKind, ...]] = get_args(SegmentKind)


class IdentifiedCall(ToolCall):
    """A tool call with an id that no other call of the conversation has."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a model said and called in one turn. `text`: its prose; `value`: its answer where that has a schema."""

    text: str = ""
    calls: tuple[IdentifiedCall, ...] = ()
    value: Any = None


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How calls are written in running text: `head`, the first call, `between` and the next one, ..., `tail`.

    Each call is the JSON text {"name": ..., "arguments": {...}}. `between` is None where there can be one call only.
    """

    head: str
    between: str | None
    tail: str

    def __post_init__(self) -> None:
        if "{" in self.head + (self.between or "") + self.tail:
            raise SchemaError(f"{self}: expected texts without '{{', because calls are found by it")


MARKED: Final = CallFormat("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
"""The format for chat templates that have none of their own."""
BARE: Final = CallFormat("", None, "")
"""The format of a turn that is one call and nothing else."""


@dataclass(frozen=True)
class TurnTarget:
    """The parts that a turn may have. `calls`: the union of its tools, None where none may be called.

    `answer`: constrains what the model writes instead of calls; None for free prose, which may also stand between
    calls. `parallel`: whether there may be several calls.
    """

    calls: Schema | None
    answer: Target | None = None
    choice: ToolChoice = "auto"
    parallel: bool = True
    format: CallFormat = MARKED
    kind: ClassVar[str] = "turn"

    def __post_init__(self) -> None:
        if self.choice == "required" and self.calls is None:
            raise SchemaError("tool_choice='required' and no tools: pass at least one, or tool_choice='none'")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The target as records store it; `turn_of` reads it back."""
        parts = {"calls": self.calls, "answer": self.answer}
        return {
            "x-turn": {
                **{name: None if part is None else part.document for name, part in parts.items()},
                "choice": self.choice,
                "parallel": self.parallel,
                "format": [self.format.head, self.format.between, self.format.tail],
            }
        }

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    def written(self, form: CallFormat) -> TurnTarget:
        """Returns the target with calls in another format."""
        return replace(self, format=form)

    @property
    def constrains(self) -> bool:
        """Whether some part of the turn has a schema."""
        return self.calls is not None or self.answer is not None

    @property
    def segment_kinds(self) -> tuple[SegmentKind, ...]:
        """Kinds of the segments that the turn may have, besides thinking."""
        answer: SegmentKind = "json" if isinstance(self.answer, Schema) else "prose"
        calls: tuple[SegmentKind, ...] = ("tool_call",) if self.calls is not None else ()
        return calls if self.choice == "required" else (answer, *calls)

    def calls_in(self, text: str) -> Iterator[ToolCall]:
        """Yields the calls in the text of a segment of calls. Raises SchemaViolation where a validator refuses one."""
        assert self.calls is not None
        read, at = json.JSONDecoder(), text.find("{")
        while at >= 0:
            try:
                end = read.raw_decode(text, at)[1]
            except ValueError as error:
                raise SchemaViolation(text, f"not JSON: {error}") from None
            yield self.calls.parse(text[at:end])
            at = text.find("{", end)


def turn_of(document: Mapping[str, Any], formats: str | None = None) -> TurnTarget | None:
    """Returns the target of a record's document; None for a document of another kind."""
    parts = document.get("x-turn")
    if not isinstance(parts, Mapping) or len(document) > 1:
        return None
    calls, answer = parts["calls"], parts["answer"]
    return TurnTarget(
        calls=None if calls is None else _schema(calls, formats),
        answer=None if answer is None else schema_of(answer) if _is_text(answer) else _schema(answer, formats),
        choice=parts["choice"],
        parallel=parts["parallel"],
        format=CallFormat(*parts["format"]),
    )


def turn_target(
    shapes: Sequence[ToolShape], answer: Target | None, choice: Any, parallel: Any, origin: str
) -> TurnTarget:
    """Returns the target of a turn with tools.

    `choice`: a ToolChoice, or the one tool to be called once: its name, or OpenAI's {"type": "function", "function":
    {"name": ...}} for a tool that is called like a ToolChoice. Raises SchemaError for a tool that is not there, and
    where a call is required and there are no tools.
    """
    names = [shape.name for shape in shapes]
    if isinstance(choice, Mapping):
        inner = choice.get("function")
        named = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
        if named in names:
            return _one_call(shapes, named)
    if not isinstance(choice, str) or choice not in (*TOOL_CHOICES, *names):
        known = ", ".join([*TOOL_CHOICES, *names])
        raise SchemaError(f"{origin}: tool_choice={shown(choice)}: expected one of {known}")
    if not isinstance(parallel, bool):
        raise SchemaError(f"{origin}: parallel_tool_calls={shown(parallel)}: expected true or false")
    if choice not in TOOL_CHOICES:
        return _one_call(shapes, choice)
    calls = called(list(shapes)) if shapes and choice != "none" else None
    return TurnTarget(calls, answer, choice, parallel)


def _one_call(shapes: Sequence[ToolShape], name: str) -> TurnTarget:
    own = [shape for shape in shapes if shape.name == name]
    return TurnTarget(called(own), choice="required", parallel=False)


def _schema(document: dict[str, Any], formats: str | None) -> Schema:
    return Schema(document, formats="assert" if formats == "assert" else "annotate")


def _is_text(document: Mapping[str, Any]) -> bool:
    return any(key.startswith("x-") for key in document) and len(document) == 1
