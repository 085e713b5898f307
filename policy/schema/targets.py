"""Targets: types, JSON Schemas and tool lists as a `Schema`, which is compiled to a grammar and validates the output.

Knows which validator checks which part of a finished text. Does not know tokens or grammar engines.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isinf
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, cast, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ..errors import SchemaError, SchemaRefused, SchemaViolation, UnsatisfiableSchema, shown
from ..json_schema import CommonForm, Formats, check_document, formats_of, to_common_form, validator_of, violation
from .envelopes import check_has_keywords, unwrapped
from .python_types import reasons, typed
from .texts import FORMS, TextTarget
from .tool_shapes import Tool, ToolShape, shapes_of
from .tool_union import OwnTool, united

if TYPE_CHECKING:
    import jsonschema.protocols

Json = Any
_OWN_RULES: Final = (
    "the type has rules beyond its JSON Schema, which no grammar can hold; ask for guarantee='checked', which decodes "
    "again where they are broken (`retries` times), or write them as a JSON Schema"
)


class ToolCall(BaseModel):
    """A tool call by the model: the tool's name, and arguments that fit the tool's parameters."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Schema:
    """A JSON Schema, with the adapter that builds the value where it was made from a Python type.

    `tools`: the tools whose calls it allows; each tool's own schema validates the arguments too.
    """

    document: dict[str, Json]
    adapter: TypeAdapter[Any] | None = None
    formats: Formats = "annotate"
    """How formats that neither the grammar nor jsonschema knows are treated: left out with a note, or refused."""
    tools: tuple[OwnTool, ...] = ()

    @cached_property
    def text(self) -> str:
        """The document as JSON with its keys in the given order, which is the order of keys in the output."""
        return json.dumps(self.document)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    @cached_property
    def common(self) -> CommonForm:
        """The document in common form, from which grammars are compiled."""
        return to_common_form(self.document, self.text)

    def origin(self, place: str) -> tuple[str, str]:
        """The tool (empty: none) and the pointer into the schema as given, of a pointer into the common form."""
        place = self.common.origin(place)
        for tool in self.tools:
            if (given := tool.origin(place)) is not None:
                return tool.shape.name, given
        return "", place

    def refused(self, error: SchemaRefused) -> SchemaRefused:
        """A refusal of the common form, with the pointer into the schema as given."""
        tool, place = self.origin(error.pointer)
        return error if (place, tool) == (error.pointer, error.tool) else error.elsewhere(place, tool)

    @cached_property
    def _validator(self) -> jsonschema.protocols.Validator:
        return validator_of(self.document)

    def parse(self, text: str) -> Any:
        """The value of finished output. Raises SchemaViolation where a validator refuses it."""
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        except ValueError as error:
            raise SchemaViolation(text, f"not JSON: {error}") from None
        if (wrong := violation(self._validator, value)) is not None:
            raise SchemaViolation(text, wrong)
        try:
            for tool in self.tools:
                self._check_arguments(tool, text, value)
            return value if self.adapter is None else self.adapter.validate_json(text)
        except ValidationError as error:
            raise SchemaViolation(text, reasons(error), _OWN_RULES) from None

    @staticmethod
    def _check_arguments(tool: OwnTool, text: str, call: dict[str, Json]) -> None:
        """Validates arguments by the tool's schema in its own draft, and by pydantic where the tool is a class."""
        if tool.shape.name != call["name"]:
            return
        if (wrong := violation(tool.validator, call["arguments"])) is not None:
            raise SchemaViolation(text, f"arguments of tool {tool.shape.name!r}: {wrong}")
        if tool.shape.adapter is not None:
            tool.shape.adapter.validate_json(json.dumps(call["arguments"]))

    def remarks(self, text: str) -> list[str]:
        """Notes on a finished text: keys that are repeated in an object."""
        return [f"key {key!r} is written twice in one object; its last value counts" for key in doubled_keys(text)]


Target = Schema | TextTarget
"""What output may be constrained to; all have a `document`, a `sha256`, `parse` and `remarks`."""


def doubled_keys(text: str) -> list[str]:
    """Keys that are repeated in one object of `text`, of which parsers keep the last value."""
    doubled: list[str] = []

    def keep(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        doubled.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return doubled


def schema_of(target: Any, *, formats: Formats | None = None) -> Target:
    """The target of any supported form. Raises SchemaError and its subclasses.

    `target`: a JSON Schema (dict, True), also in OpenAI's envelopes; a list of tools; a type that pydantic understands;
    or Regex, Choice or Lark for plain text (as such, as `Annotated[str, Regex(...)]`, or as the `document` in records).
    `formats`: "annotate" (the default) leaves out formats that nothing here checks, with a note; "assert" (or its old
    name, "strict") refuses them.
    """
    schema = _schema_of(unwrapped(target) if target is not None else target)
    if formats is None:
        return schema
    if not isinstance(schema, Schema):
        raise SchemaError(f"formats={formats!r}: a {schema.kind} has no formats; they belong to JSON Schemas")
    return replace(schema, formats=formats_of(formats))


def held_to(target: Any) -> Target | None:
    """`schema_of`, or None for unconstrained output: no target, or the envelope of plain text."""
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
        check_has_keywords(document)
        return Schema(document)
    if isinstance(target, Sequence) and not isinstance(target, str | bytes):
        return tool_schema(target)
    document, adapter = typed(target)
    check_document(document)
    return Schema(document, adapter)


def _text_target(target: Any) -> TextTarget | None:
    """The Regex, Choice or Lark in `Annotated[str, ...]` or in its document; None for other targets."""
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
    """The schema of one call of one of `tools`: {"name": ..., "arguments": {...}}, with that tool's parameters."""
    return called(shapes_of(tools))


def called(shapes: list[ToolShape]) -> Schema:
    """The `tool_schema` of tools whose shapes are known."""
    document, own = united(shapes)
    return Schema(document, _CALL, tools=own)


def describe_tool(tool: Tool) -> dict[str, Json]:
    """The {"name", "description", "parameters"} of a tool in any supported shape."""
    found = shapes_of([tool])
    if len(found) != 1:
        raise SchemaError(f"one tool was expected, found {[shape.name for shape in found]}")
    return found[0].described


def described(tools: Sequence[Tool]) -> tuple[dict[str, Json], ...]:
    """The descriptions of `tools` for chat templates."""
    return tuple(shape.described for shape in shapes_of(tools))


def _finite(digits: str) -> float:
    """The number of a JSON text. Raises ValueError where it is infinite as a float."""
    if isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is infinite to readers")
    return number


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
