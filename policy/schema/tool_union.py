"""The schema of one call of one of several tools, and the way back from its places to each tool as it was given.

Knows tool shapes and the common form of schemas. Each tool's schema keeps its own draft, base and names: what a call's
arguments are checked by is that schema itself; the union, which the grammar is made of, holds it in the common form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonschema.protocols

from ..errors import SchemaError, SchemaRefused
from ..json_schema import CommonForm, Where, check_document, check_json, moved_form, oracle_of, pointer
from .tool_shapes import ToolShape

Json = Any


@dataclass(frozen=True)
class OwnTool:
    """A tool as it was given, and where its parameters stand in the union."""

    shape: ToolShape
    form: CommonForm
    place: str

    def origin(self, place: str) -> str | None:
        """A pointer into the union as a pointer into what was given; None where it leads elsewhere."""
        if place != self.place and not place.startswith(f"{self.place}/"):
            return None
        return self.shape.pointer + self.form.origin(place)

    @cached_property
    def oracle(self) -> jsonschema.protocols.Validator:
        return oracle_of(self.shape.parameters)


def united(shapes: list[ToolShape]) -> tuple[dict[str, Json], tuple[OwnTool, ...]]:
    """Raises SchemaError, at the place in the tool as it was given."""
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
    """Together within the limits of one document, before anything is walked; then each in the draft that it names."""
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
