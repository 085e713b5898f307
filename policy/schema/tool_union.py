"""Union of tools: the schema of one call of one of several tools, and its pointers mapped back to each tool.

Knows tool shapes and the common form of schemas. Does not know grammars. The union, from which the grammar is compiled,
contains each tool's schema in common form; a call's arguments are validated by the schema as given, in its own draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import SchemaError, SchemaRefused
from ..json_schema import CommonForm, Where, check_document, check_json, moved_form, pointer, validator_of
from .tool_shapes import ToolShape

if TYPE_CHECKING:
    import jsonschema.protocols

Json = Any


@dataclass(frozen=True)
class OwnTool:
    """A tool of a union. `form`: its parameters in common form; `place`: the pointer to them in the union."""

    shape: ToolShape
    form: CommonForm
    place: str

    def origin(self, place: str) -> str | None:
        """The pointer into the tool as given of a pointer into the union; None where that leads elsewhere."""
        if place != self.place and not place.startswith(f"{self.place}/"):
            return None
        return self.shape.pointer + self.form.origin(place)

    @cached_property
    def validator(self) -> jsonschema.protocols.Validator:
        """The validator of the tool's arguments."""
        return validator_of(self.shape.parameters)


def united(shapes: list[ToolShape]) -> tuple[dict[str, Json], tuple[OwnTool, ...]]:
    """The union of the tools' calls and its parts. Raises SchemaError, at the place in the tool as given."""
    if not shapes:
        raise SchemaError("an empty tool list allows no call; pass at least one tool")
    names = [shape.name for shape in shapes]
    if len(set(names)) < len(names):
        raise SchemaError(f"tool names must differ, found {names}")
    places = [(*(("anyOf", i) if len(shapes) > 1 else ()), "properties", "arguments") for i in range(len(shapes))]
    _check(shapes, places)
    tools = tuple(
        OwnTool(shape, moved_form(shape.parameters, place), pointer(place))
        for shape, place in zip(shapes, places, strict=True)
    )
    return _one_of([_call(tool.shape.name, tool.form.document) for tool in tools]), tools


def _check(shapes: list[ToolShape], places: list[Where]) -> None:
    """Raises SchemaRefused where the tools together exceed the limits of one document, or one is no JSON Schema.

    The limits come first, because the other checks walk the schemas.
    """
    try:
        check_json(_one_of([_call(shape.name, shape.parameters) for shape in shapes]))
    except SchemaRefused as error:
        for shape, place in zip(shapes, places, strict=True):
            if f"{error.pointer}/".startswith(at := f"{pointer(place)}/"):
                raise error.elsewhere(shape.pointer + error.pointer[len(at) - 1 :], shape.name) from None
        raise
    for shape in shapes:
        try:
            check_document(shape.parameters)
        except SchemaRefused as error:
            raise error.elsewhere(shape.pointer + error.pointer, shape.name) from None


def _one_of(calls: list[dict[str, Json]]) -> dict[str, Json]:
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _call(name: str, arguments: Json) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
