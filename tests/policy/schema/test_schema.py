"""Types, JSON Schemas and tool lists: their schemas, refusals with their place, and valid texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, field_validator

from trimode.policy.errors import SchemaError, SchemaViolation, UnsupportedKeyword
from trimode.policy.grammar.compiler import check
from trimode.policy.schema.targets import ToolCall, describe_tool, doubled_keys, schema_of, tool_schema

UNIQUE = {"type": "array", "uniqueItems": True}


class Inner(BaseModel):
    kind: Literal["a", "b"]
    count: int | None = None


class Outer(BaseModel):
    inner: Inner
    when: datetime
    id: UUID


class Node(BaseModel):
    value: int
    children: list[Node] = []


def book(city: str, nights: int = 1) -> None:
    """Books a room."""


def lookup(date: str) -> None:
    """Looks a day up."""


@pytest.mark.parametrize(
    ("target", "text", "value"),
    [
        (Inner, '{"kind":"a"}', Inner(kind="a")),
        (Inner, '{"kind":"b","count":null}', Inner(kind="b")),
        (Node, '{"value":1,"children":[{"value":2}]}', Node(value=1, children=[Node(value=2)])),
        (list[int], "[1,2]", [1, 2]),
        (Literal["x", 3], "3", 3),
        (date, '"2024-02-29"', date(2024, 2, 29)),
        (timedelta, '"PT5M"', timedelta(minutes=5)),
        (UUID, '"12345678-1234-5678-1234-567812345678"', UUID("12345678-1234-5678-1234-567812345678")),
        (int | None, "null", None),
        ({"type": "integer"}, "7", 7),
        (True, '[{"a":null}]', [{"a": None}]),
        ({"type": "number", "multipleOf": 0.1}, "2.4", 2.4),
        ({"type": "integer", "multipleOf": 7}, "7" * 60, int("7" * 60)),
    ],
)
def test_value_of_a_type_or_schema(target: Any, text: str, value: Any) -> None:
    check(schema_of(target))
    assert schema_of(target).parse(text) == value


def test_nested_model() -> None:
    text = '{"inner":{"kind":"a"},"when":"2024-05-01T10:00:00Z","id":"12345678-1234-5678-1234-567812345678"}'
    parsed = schema_of(Outer).parse(text)
    assert isinstance(parsed, Outer)
    assert parsed.inner == Inner(kind="a")


def test_schema_is_its_own_schema_and_content_is_its_digest() -> None:
    schema = schema_of(Inner)
    assert schema_of(schema) is schema
    assert schema_of({"type": "string"}).sha256 == schema_of({"type": "string"}).sha256
    assert schema_of({"type": "string"}).sha256 != schema_of({"type": "integer"}).sha256


def test_models_take_no_surplus_keys() -> None:
    with pytest.raises(SchemaViolation, match="surplus"):
        schema_of(Inner).parse('{"kind":"a","surplus":1}')


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (False, "allows no value"),
        ([], "empty tool list"),
        ({"type": "frob"}, r"\$\.type"),
        ({"type": ["<|", "im_end", "|>"]}, r"\$\.type"),
        ({"required": "a"}, r"\$\.required"),
        ({"type": "string", "pattern": "["}, r"\$\.pattern"),
        ({"$schema": 5}, r"\$\.\$schema"),
        ({"const": float("nan")}, "must be JSON"),
        ({"const": {1, 2}}, "must be JSON"),
        (3, "cannot make a schema of 3"),
        (Callable, "cannot make a schema"),
    ],
)
def test_refused_as_no_schema(target: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        schema_of(target)
    assert "\n" not in str(caught.value)
    assert "errors.pydantic.dev" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        {"enum": []},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "required": ["b"], "properties": {"b": False}},
        {"type": "integer", "minimum": 10**40},
    ],
)
def test_refused_because_nothing_fits(document: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        check(schema_of(document))


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (UNIQUE, "/uniqueItems"),
        ({"not": {"pattern": "^a"}}, "/not"),
        ({"type": "array", "contains": {"type": "integer"}}, "/contains"),
        ({"type": "string", "format": "idn-email"}, "/format"),
        ({"type": "string", "pattern": "^(?=a)b"}, "/pattern"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
        ({"$ref": "https://example.com/schema.json"}, "/$ref"),
        ({"$ref": "#/$defs/nowhere"}, "/$ref"),
        ({"type": "object", "dependencies": {"a": ["b"]}}, "/dependencies"),
        ({"if": {"pattern": "^a"}, "then": {"minLength": 2}}, "/if"),
        ({"type": "object", "propertyNames": {"minLength": 2}}, "/propertyNames"),
        ({"unevaluatedProperties": False}, "/unevaluatedProperties"),
        ({"properties": {"x/y": {"not": {"format": "date"}}}}, "/properties/x~1y/not"),
        ({"properties": {"not": UNIQUE, "uniqueItems": {}}}, "/properties/not/uniqueItems"),
        ({"properties": {"const": {"format": "regex"}}}, "/properties/const/format"),
        ({"properties": {"a": {"allOf": [{"type": "string"}, {"format": "regex"}]}}}, "/properties/a/allOf/1/format"),
        ({"patternProperties": {"^a": UNIQUE}}, "/patternProperties/^a/uniqueItems"),
        ({"$ref": "#/$defs/X", "$defs": {"X": UNIQUE}}, "/$defs/X/uniqueItems"),
        (
            {"$defs": {"a/b~c": UNIQUE}, "properties": {"k": {"$ref": "#/$defs/a~1b~0c"}}},
            "/$defs/a~1b~0c/uniqueItems",
        ),
        (
            {"$defs": {"N": {"properties": {"next": {"$ref": "#/$defs/N"}, "all": UNIQUE}}}, "$ref": "#/$defs/N"},
            "/$defs/N/properties/all/uniqueItems",
        ),
        ({"x-guidance": {"lenient": True}, "not": {"pattern": "^a"}}, "/not"),
        ({"x-guidance": {"lenient": True}, "properties": {"a": UNIQUE}}, "/properties/a/uniqueItems"),
    ],
)  # fmt: skip
def test_unsupported_keyword_is_named_and_placed(document: dict[str, Any], pointer: str) -> None:
    with pytest.raises(UnsupportedKeyword) as caught:
        check(schema_of(document))
    error = caught.value
    assert (error.pointer, error.keyword) == (pointer, pointer.rsplit("/", 1)[1])
    assert pointer in str(error)
    for inside in ("coerce_one_of", "registry", "Unimplemented"):
        assert inside not in str(error)


def test_unsupported_keyword_of_a_type_and_of_a_tool() -> None:
    with pytest.raises(UnsupportedKeyword) as caught:
        check(schema_of(set[int]))
    assert caught.value.pointer == "/uniqueItems"
    tool = {"name": "x", "parameters": {"type": "object", "properties": {"a/b": UNIQUE}}}
    with pytest.raises(UnsupportedKeyword) as caught:
        check(schema_of([{"name": "y", "parameters": {}}, tool]))
    assert (caught.value.pointer, caught.value.tool) == ("/parameters/properties/a~1b/uniqueItems", "x")
    assert str(caught.value).startswith("tool 'x': schema keyword 'uniqueItems' at /parameters/properties/a~1b")


def test_values_that_look_like_keywords_are_values() -> None:
    check(schema_of({"enum": [{"not": 1}, {"uniqueItems": True}], "default": {"contains": 1}}))
    check(schema_of({"type": "object", "properties": {"not": {"type": "string"}, "contains": {"type": "integer"}}}))


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "book", "description": "Books a room.", "parameters": CITY},
        {"type": "function", "function": {"name": "book", "description": "Books a room.", "parameters": CITY}},
        book,
    ],
)
def test_tool_as_dict_envelope_or_function(tool: Any) -> None:
    described = describe_tool(tool)
    assert described["name"] == "book"
    assert described["description"] == "Books a room."
    assert described["parameters"]["required"] == ["city"]
    call = tool_schema([tool, lookup]).parse('{"name":"book","arguments":{"city":"Bern"}}')
    assert call == ToolCall(name="book", arguments={"city": "Bern"})


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"book","arguments":{}}',
        '{"name":"lookup","arguments":{"city":"Bern"}}',
        '{"name":"other","arguments":{"city":"Bern"}}',
        '{"name":"book","arguments":{"city":"Bern"},"more":1}',
        '{"arguments":{"city":"Bern"}}',
    ],
)
def test_call_that_fits_no_tool(text: str) -> None:
    with pytest.raises(SchemaViolation):
        tool_schema([book, lookup]).parse(text)


def test_tool_without_parameters_takes_none() -> None:
    schema = tool_schema([{"name": "stop", "parameters": None}])
    assert schema.parse('{"name":"stop","arguments":{}}') == ToolCall(name="stop", arguments={})
    with pytest.raises(SchemaViolation):
        schema.parse('{"name":"stop","arguments":{"a":1}}')


def test_arguments_are_an_object_whatever_the_parameters_leave_open() -> None:
    schema = tool_schema([{"name": "x", "parameters": {"properties": {"a": {"type": "integer"}}}}])
    with pytest.raises(SchemaViolation):
        schema.parse('{"name":"x","arguments":"text"}')


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([book, {"name": "book", "parameters": {}}], "must differ"),
        ([{"description": "no name"}], "needs a name"),
        ([{"name": 5}], "needs a name"),
        ([{"type": "function", "function": None}], "needs a name"),
        ([{"name": "x", "parameters": {"type": "array"}}], "type object"),
        ([{"name": "x", "parameters": "city"}], "type object"),
    ],
)
def test_tools_refused(tools: list[Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        tool_schema(tools)


def test_references_inside_parameters_move_with_them() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}, "self": {"$ref": "#"}},
        "required": ["a"],
        "$defs": {"A": {"type": "integer"}},
    }
    cases: list[tuple[list[Any], str]] = [([{"name": "x", "parameters": parameters}], "#")]
    cases.append(([{"name": "y", "parameters": {}}, {"name": "x", "parameters": parameters}], "#/anyOf/1"))
    for tools, place in cases:
        schema = tool_schema(tools)
        check(schema)
        text = json.dumps(schema.document)
        assert f'"$ref": "{place}/properties/arguments/$defs/A"' in text
        assert f'"$ref": "{place}/properties/arguments"' in text
        schema.parse('{"name":"x","arguments":{"a":1,"self":{"a":2}}}')
        with pytest.raises(SchemaViolation):
            schema.parse('{"name":"x","arguments":{"a":"1"}}')
        with pytest.raises(SchemaViolation):
            schema.parse('{"name":"x","arguments":{"a":1,"self":{"a":"2"}}}')


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ({}, "NaN", "NaN is not JSON"),
        ({}, "[-Infinity]", "-Infinity is not JSON"),
        ({}, "{", "not JSON"),
        ({}, "", "not JSON"),
        ({"type": "integer"}, '"7"', "jsonschema at"),
        ({"type": "integer", "maximum": 3}, "4", "jsonschema at"),
        ({"type": "string", "format": "date"}, '"2023-02-29"', "jsonschema at"),
        ({"type": "number", "multipleOf": 0.1}, "2.45", "multiple of"),
        (Outer, '{"inner":{"kind":"c"}}', "jsonschema at"),
        (Even, '{"number":3}', "pydantic at number: Value error, odd; the type has rules"),
    ],
)
def test_text_that_breaks_its_schema(target: Any, text: str, message: str) -> None:
    with pytest.raises(SchemaViolation, match=message) as caught:
        schema_of(target).parse(text)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("text", "keys"),
    [('{"a":1,"b":2}', []), ('{"a":1,"a":2}', ["a"]), ('[{"b":{"a":1,"a":1,"c":0,"c":0}}]', ["a", "c"])],
)
def test_doubled_keys_are_named_and_the_last_one_counts(text: str, keys: list[str]) -> None:
    assert doubled_keys(text) == keys
    assert schema_of({}).parse(text) == json.loads(text)
