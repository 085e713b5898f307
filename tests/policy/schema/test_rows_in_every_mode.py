"""One or two schemas of every kind that was once seen to break, and every shape of tools and envelopes, decoded on the
bundled checkpoint in all modes at two temperatures.

What comes out is judged by readers that are not ours: jsonschema under the draft that a schema names, pydantic, `re`
and the interpreter's own binding of arguments. No test here asks `Schema.parse` or `Result.valid` alone.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import jsonschema
import pytest
from jsonschema.validators import validator_for
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.calls.engine import Engine

MODES: Final = ("ar", "diffusion", "linear_spec", "quadratic_spec")
D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
D19 = "https://json-schema.org/draft/2019-09/schema"
Json = Any
Oracle = Callable[[str], None]
"""Raises where a text is not what was asked for."""


def read(text: str) -> Json:
    """The value of a JSON text: no key twice, no number that is infinite or no number."""

    def pairs(members: list[tuple[str, Json]]) -> dict[str, Json]:
        assert len({key for key, _ in members}) == len(members), text
        return dict(members)

    def finite(number: str) -> float:
        assert math.isfinite(float(number)), text
        return float(number)

    def never(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, object_pairs_hook=pairs, parse_float=finite, parse_constant=never)


def fits(schema: Json, value: Json) -> None:
    """By jsonschema, in the draft that the schema names."""
    kind: Any = validator_for(schema, default=jsonschema.Draft202012Validator)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(value)


def by_schema(schema: Json) -> Oracle:
    return lambda text: fits(schema, read(text))


def by_type(target: Any) -> Oracle:
    def check(text: str) -> None:
        read(text)
        TypeAdapter[Any](target).validate_json(text)

    return check


def by_pattern(pattern: str) -> Oracle:
    def check(text: str) -> None:
        assert re.search(pattern, read(text)), text

    return check


def closed(**properties: Json) -> dict[str, Json]:
    """An object that has all of these and no others."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


FILE_NAME = r'^[^\\/:*?"<>|]{1,6}$'
PATTERNS: Final = (r'^[^"]{0,5}$', FILE_NAME, r"^[\x00-\x21\\]{2}$")
SCHEMAS: Final[list[Json]] = [
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    {"type": "number", "minimum": 1, "exclusiveMaximum": 1.5},
    {"const": 'a"b'}, {"enum": ["\\", '"', "/"]}, {"type": "string", "minLength": 1, "not": {"const": '"'}},
    {"const": 2**62}, {"enum": [[2**53 - 1], {"a": 0.1}]}, {"type": "integer", "minimum": 2**53 + 1, "maximum": 2**60},
    {"type": "number"}, {}, {"type": "array", "items": {"type": "integer"}, "minItems": 1},
    {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    {"type": "object", "properties": {"q\"": {"type": "null"}}, "required": ["q\""], "maxProperties": 2},
    {"type": "object", "properties": {"id": {"type": "integer"}}, "not": {"required": ["b"]}},
    closed(u={"type": "string", "format": "url", "maxLength": 5}, n={"type": "integer", "format": "int64"}),
    {"$schema": D4, "type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9},
    {"$schema": D7, "definitions": {"p": {"$id": "#p", "type": "boolean"}}, "items": {"$ref": "#p"}, "type": "array",
     "minItems": 2, "maxItems": 2},
    {"$id": "https://a.b/c", "$defs": {"p": {"$anchor": "pp", "enum": [1, 2]}}, **closed(x={"$ref": "#pp"})},
    {"$schema": D19, "$recursiveAnchor": True, "type": "object", "additionalProperties": False,
     "properties": {"x": {"$recursiveRef": "#"}, "n": {"type": "null"}}},
]  # fmt: skip


TYPES: Final[list[Any]] = [
    Annotated[float, Field(gt=0, le=0.5)], Annotated[str, Field(pattern=r'^[^"\\]{1,4}$')], Literal[1, "a\"b"],
    Annotated[dict[str, bool], Field(min_length=1, max_length=2)],
]  # fmt: skip


HELD: Final[list[tuple[Any, Oracle]]] = [
    *((schema, by_schema(schema)) for schema in SCHEMAS),
    *(({"type": "string", "pattern": pattern}, by_pattern(pattern)) for pattern in PATTERNS),
    *((target, by_type(target)) for target in TYPES),
    ({"name": "n", "strict": True, "schema": closed(a={"type": "null"})}, by_schema(closed(a={"type": "null"}))),
    ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 5}}}, by_schema({"const": 5})),
    ({"type": "json_object"}, by_schema({"type": "object"})),
]

CITY: Final = closed(city={"type": "string", "maxLength": 3})
GEMINI: Final = {
    "type": "OBJECT", "properties": {"city": {"type": "STRING", "maxLength": "3"}}, "required": ["city"],
}  # fmt: skip
SHORT = Annotated[str, Field(max_length=3)]


class Desk:
    def book(self, city: SHORT, nights: Annotated[int, Field(ge=1, le=9)] = 1) -> str:
        """Books."""
        return f"{city} {nights}"

    __call__ = book


class Room(BaseModel, extra="forbid"):
    """A room."""

    city: SHORT


OWN: Final[list[Json]] = [
    closed(x={"const": {"$ref": "#/c/P"}}),
    closed(x={"enum": [{"$ref": "#"}, {"$id": "a", "$schema": D4}]}),
    {"$schema": D4, **closed(x={"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 9})},
    {"$schema": D7, **closed(x={"type": "array", "items": [{"type": "null"}], "additionalItems": False})},
    {"$id": "https://x/y.json", "$defs": {"p": {"$id": "p.json", "$defs": {"k": {"type": "boolean"}}}},
     **closed(x={"$ref": "p.json#/$defs/k"})},
    {"$defs": {"p": {"$anchor": "pp", "type": "null"}}, **closed(x={"$ref": "#pp"})},
    closed(x={"type": "string", "format": "semver", "maxLength": 3}),
]  # fmt: skip
"""Parameters whose references, base or draft are their own."""
TOOLS: Final[list[tuple[Any, Callable[[dict[str, Json]], object]]]] = [
    *(({"name": "t", "input_schema": own}, partial(fits, own)) for own in OWN),
    ({"type": "function", "function": {"name": "t", "parameters": CITY, "strict": True}}, partial(fits, CITY)),
    ({"type": "function", "name": "t", "parameters": CITY}, partial(fits, CITY)),
    ({"type": "custom", "name": "t", "input_schema": CITY, "cache_control": {"type": "ephemeral"}},
     partial(fits, CITY)),
    ({"name": "t", "inputSchema": CITY, "annotations": {"readOnlyHint": True}}, partial(fits, CITY)),
    (SimpleNamespace(name="t", description=None, inputSchema=CITY), partial(fits, CITY)),
    (SimpleNamespace(name="t", description="", args_schema=Room), Room.model_validate),
    ({"functionDeclarations": [{"name": "t", "parameters": GEMINI}]},
     partial(fits, {**CITY, "additionalProperties": True})),
    ({"toolSpec": {"name": "t", "inputSchema": {"json": CITY}}}, partial(fits, CITY)),
    (Desk().book, lambda arguments: inspect.signature(Desk().book).bind(**arguments)),
    (Desk(), lambda arguments: inspect.signature(Desk().book).bind(**arguments)),
    (partial(Desk().book, nights=2), lambda arguments: inspect.signature(Desk().book).bind(**arguments)),
    (Room, Room.model_validate),
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_whatever_is_decoded_is_what_other_readers_take(reference: Engine, mode: Mode, temperature: float) -> None:
    for seed, (target, validator) in enumerate(HELD):
        result = reference.generate(
            "Say something: ", schema=target, mode=mode, temperature=temperature, max_tokens=24, seed=seed
        )
        validator(result.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_a_call_of_a_tool_of_every_shape_fits_that_tool(reference: Engine, mode: Mode, temperature: float) -> None:
    for seed, (tool, validator) in enumerate(TOOLS):
        result = reference.generate(
            "Call: ", tools=[tool], mode=mode, temperature=temperature, max_tokens=48, seed=seed
        )
        validator(read(result.text)["arguments"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_what_only_pydantic_knows_is_decoded_until_it_fits(reference: Engine, mode: Mode, temperature: float) -> None:
    seen = list[Room]()

    def third(value: Room) -> Room:
        """Whatever the model would say each time."""
        seen.append(value)
        if len(seen) < 3:
            raise ValueError("not yet")
        return value

    words: dict[str, Any] = {"mode": mode, "temperature": temperature, "guarantee": "checked", "max_tokens": 24}
    result = reference.generate("A room: ", schema=Annotated[Room, AfterValidator(third)], retries=5, **words)
    assert Room.model_validate_json(result.text) == result.value == seen[-1]
    assert (len(result.failed), result.guarantee) == (2, "checked")
    seen.clear()
    with pytest.raises(tm.CheckFailed) as failed:
        reference.generate("A room: ", schema=Annotated[Room, AfterValidator(third)], retries=1, **words)
    assert len(failed.value.attempts) == 2
