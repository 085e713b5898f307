"""Types, JSON Schemas and tool lists as one thing: a `Schema` that yields grammar text and checks finished output.

Knows who checks what in finished text. Does not know tokens or grammar engines. Canonical text has no spaces between
items, the form that `episodes.canonical` writes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isinf
from typing import Annotated, Any, ClassVar, Final, cast, get_origin

import jsonschema.protocols
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ..errors import SchemaError, SchemaRefused, SchemaViolation, UnsatisfiableSchema, shown
from ..json_schema import CommonForm, Formats, check_document, formats_of, oracle_of, to_common_form, wrong_with
from .envelopes import check_says_something, unwrapped
from .python_types import reasons, typed
from .texts import FORMS, TextTarget
from .tool_shapes import Tool, ToolShape, shapes_of
from .tool_union import OwnTool, united

Json = Any
_OWN_RULES: Final = (
    "the type has rules beyond its JSON Schema, which no grammar can hold; ask for guarantee='checked', which decodes "
    "again where they are broken (`retries` times), or write them as a JSON Schema"
)


class ToolCall(BaseModel):
    """A call that the model chose: the tool's name and arguments that fit the tool's parameters."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Schema:
    """A JSON Schema with, where it came from a Python type, the adapter that builds the value.

    `tools`: those whose calls it allows. Their arguments are checked by each tool's own schema, too.
    """

    document: dict[str, Json]
    adapter: TypeAdapter[Any] | None = None
    formats: Formats = "annotate"
    """What happens to formats that neither the grammar nor jsonschema knows: left out with a note, or refused."""
    tools: tuple[OwnTool, ...] = ()

    @cached_property
    def text(self) -> str:
        """The document with its keys as given: their order is that of the output."""
        return json.dumps(self.document)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    @cached_property
    def common(self) -> CommonForm:
        """The document as grammars are made of it."""
        return to_common_form(self.document, self.text)

    def origin(self, place: str) -> tuple[str, str]:
        """The tool, if any, and the pointer into what was given, of a pointer into the common form."""
        place = self.common.origin(place)
        for tool in self.tools:
            if (given := tool.origin(place)) is not None:
                return tool.shape.name, given
        return "", place

    def refused(self, error: SchemaRefused) -> SchemaRefused:
        """A refusal of the common form, placed in what was given."""
        tool, place = self.origin(error.pointer)
        return error if (place, tool) == (error.pointer, error.tool) else error.elsewhere(place, tool)

    @cached_property
    def _oracle(self) -> jsonschema.protocols.Validator:
        return oracle_of(self.document)

    def parse(self, text: str) -> Any:
        """The value of finished output. Raises SchemaViolation where an oracle disagrees."""
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        except ValueError as error:
            raise SchemaViolation(text, f"not JSON: {error}") from None
        if (wrong := wrong_with(self._oracle, value)) is not None:
            raise SchemaViolation(text, wrong)
        try:
            for tool in self.tools:
                self._check_arguments(tool, text, value)
            return value if self.adapter is None else self.adapter.validate_json(text)
        except ValidationError as error:
            raise SchemaViolation(text, reasons(error), _OWN_RULES) from None

    @staticmethod
    def _check_arguments(tool: OwnTool, text: str, call: dict[str, Json]) -> None:
        """By the tool's own schema, in its own draft, and by its own rules where it is a class."""
        if tool.shape.name != call["name"]:
            return
        if (wrong := wrong_with(tool.oracle, call["arguments"])) is not None:
            raise SchemaViolation(text, f"arguments of tool {tool.shape.name!r}: {wrong}")
        if tool.shape.adapter is not None:
            tool.shape.adapter.validate_json(json.dumps(call["arguments"]))

    def remarks(self, text: str) -> list[str]:
        """What readers of finished text should know: keys that stand twice."""
        return [f"key {key!r} is written twice in one object; its last value counts" for key in doubled_keys(text)]


Target = Schema | TextTarget
"""What output may be held to: all have a `document`, a `sha256`, `parse` and `remarks`."""


def doubled_keys(text: str) -> list[str]:
    """Keys that stand twice in one object of `text`. Readers keep the last; no grammar remembers open keys."""
    doubled: list[str] = []

    def keep(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        doubled.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return doubled


def schema_of(target: Any, *, formats: Formats | None = None) -> Target:
    """`target`: a JSON Schema (dict, True), also in OpenAI's envelopes, a list of tools, a type that pydantic
    understands, or a plain text's Regex, Choice or Lark (as such, as `Annotated[str, Regex(...)]`, or as the `document`
    that records hold).

    `formats`: "annotate" (as without it) leaves out formats that nobody here can check, and the grammar's notes say so;
    "assert" (or its old name, "strict") refuses them. Raises SchemaError and its kinds.
    """
    schema = _schema_of(unwrapped(target) if target is not None else target)
    if formats is None:
        return schema
    if not isinstance(schema, Schema):
        raise SchemaError(f"formats={formats!r}: a {schema.kind} has no formats; they belong to JSON Schemas")
    return replace(schema, formats=formats_of(formats))


def held_to(target: Any) -> Target | None:
    """`schema_of`, or None where nothing was asked for: no target, or the envelope of a plain text."""
    return None if (inside := unwrapped(target)) is None else schema_of(inside)


def _schema_of(target: Any) -> Target:
    if isinstance(target, Target):
        return target
    if (text := _text_target(target)) is not None:
        return text
    if target is True:
        return Schema({})
    if target is False:
        raise UnsatisfiableSchema("", "", "schema False allows no value at all; pass a schema that does")
    if isinstance(target, Mapping):
        document = dict(target)
        check_document(document)
        check_says_something(document)
        return Schema(document)
    if isinstance(target, Sequence) and not isinstance(target, str | bytes):
        return tool_schema(target)
    document, adapter = typed(target)
    check_document(document)
    return Schema(document, adapter)


def _text_target(target: Any) -> TextTarget | None:
    """The Regex, Choice or Lark in `Annotated[str, ...]` or in a document that holds nothing else."""
    if isinstance(target, Mapping) and len(target) == 1 and (form := FORMS.get(next(iter(target)))) is not None:
        return form(*target.values())
    if get_origin(target) is not Annotated:
        return None
    target = cast(Any, target)
    found = [held for held in target.__metadata__ if isinstance(held, TextTarget)]
    if found and (len(found) > 1 or target.__origin__ is not str):
        raise SchemaError(f"{shown(target)}: expected Annotated[str, ...] with one {found[0].kind}")
    return found[0] if found else None


_CALL: Final = TypeAdapter(ToolCall)


def tool_schema(tools: Sequence[Tool]) -> Schema:
    """One call of one of `tools`: {"name": ..., "arguments": {...}}, arguments held to that tool's parameters."""
    return called(shapes_of(tools))


def called(shapes: list[ToolShape]) -> Schema:
    """`tool_schema` of tools whose shapes are known."""
    document, own = united(shapes)
    return Schema(document, _CALL, tools=own)


def describe_tool(tool: Tool) -> dict[str, Json]:
    """{"name", "description", "parameters"} of a tool in any shape that is known."""
    found = shapes_of([tool])
    if len(found) != 1:
        raise SchemaError(f"one tool was expected, found {[shape.name for shape in found]}")
    return found[0].described


def described(tools: Sequence[Tool]) -> tuple[dict[str, Json], ...]:
    """What chat templates are shown of `tools`."""
    return tuple(shape.described for shape in shapes_of(tools))


def _finite(digits: str) -> float:
    if isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is infinite to readers")
    return number


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
