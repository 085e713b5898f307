"""Tools in the shapes that people have them in, each under its own draft; envelopes; what only a type's code knows."""

from __future__ import annotations

import asyncio
import json
import pickle
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Unpack, cast

import jsonschema
import pytest
from pydantic import BaseModel, Field, HttpUrl, field_validator
from typing_extensions import TypedDict

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.grammar.compiler import check
from trimode.policy.grammar.walker import Walker
from trimode.policy.schema.targets import held_to, schema_of, tool_schema
from trimode.policy.schema.tool_shapes import shapes_of
from trimode.testing import FakeEngine, in_turn

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
D19 = "https://json-schema.org/draft/2019-09/schema"
DEFS = "$defs"


class McpTool(BaseModel):
    """As `mcp.types.Tool` is: attributes."""

    name: str
    description: str | None = None
    inputSchema: dict[str, Any]


class Desk:
    """A desk."""

    def book(self, city: str) -> str:
        """Books."""
        return f"desk {city}"

    def __call__(self, city: str) -> str:
        return f"called {city}"


Short = Annotated[str, Field(max_length=4)]
"""A name that only this module knows: annotations are texts here."""


class Words(TypedDict):
    city: Short


class Hall:
    """A hall."""

    def book(self, city: Short, nights: int = 1) -> str:
        """Books."""
        return f"hall {city} {nights}"

    @classmethod
    def find(cls, city: Short) -> str:
        return f"found {city}"

    @lru_cache  # noqa: B019
    def kept(self, city: Short) -> str:
        return f"kept {city}"

    __call__ = book


def loose(**words: Unpack[Words]) -> str:
    return str(words)


def odd(city: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore
    """Its type is nowhere."""


def book(city: str, nights: int = 1) -> str:
    """Books."""
    return f"{city} {nights}"


class Room(BaseModel):
    """A room."""

    city: str


SHAPES: list[Any] = [
    {"type": "function", "function": {"name": "t", "parameters": CITY, "strict": True}},
    {"type": "function", "name": "t", "parameters": CITY, "strict": True},
    {"name": "t", "input_schema": CITY, "cache_control": {"type": "ephemeral"}},
    {"name": "t", "inputSchema": CITY, "outputSchema": CITY, "annotations": {"title": "T"}},
    McpTool(name="t", inputSchema=CITY),
    SimpleNamespace(name="t", description="", args_schema=Room),
    {"functionDeclarations": [{"name": "t", "parametersJsonSchema": CITY}]},
    {"function_declarations": [
        {"name": "t", "parameters": {
            "type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"],
        }}
    ]},
    {"toolSpec": {"name": "t", "inputSchema": {"json": CITY}}},
    {"name": "t", "parameters": Room},
    book, Desk().book, Desk(), partial(book, nights=2), Room,
    Hall().book, Hall(), Hall.find, Hall().kept, partial(Hall().book, nights=2), partial(Hall()), loose,
    {"name": "t", "parameters": {**CITY, "nullable": True}},
]  # fmt: skip


@pytest.mark.parametrize("tool", SHAPES, ids=range(len(SHAPES)))
def test_every_shape_has_its_parameters(tool: Any) -> None:
    (shape,) = shapes_of([tool])
    schema = tool_schema([tool])
    check(schema)
    assert schema.parse(json.dumps({"name": shape.name, "arguments": {"city": "Bern"}})).arguments == {"city": "Bern"}
    wrong: list[Any] = [{}, None]
    for arguments in wrong:
        with pytest.raises(tm.SchemaViolation):
            schema.parse(json.dumps({"name": shape.name, "arguments": arguments}))


@pytest.mark.parametrize(
    "tool", [{"type": "function", "name": "t"}, {"type": "function", "function": {"name": "t"}},
             {"name": "t", "parameters": None}, {"name": "t", "inputSchema": {}}]
)  # fmt: skip
def test_tools_that_say_that_they_take_nothing(tool: Any) -> None:
    with pytest.raises(tm.SchemaViolation):
        tool_schema([tool]).parse('{"name":"t","arguments":{"a":1}}')


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"name": "t"}, "does not say what it takes"),
        ({"name": "t", "args": CITY}, "'args' looks like a schema"),
        ({"name": "t", "parameters": CITY, "inputs": CITY}, "'inputs' looks like a schema"),
        ({"name": "t", "parameters": CITY, "input_schema": CITY}, "both say"),
        ({"type": "web_search"}, "needs a name"),
        (5, "needs a name"),
        (SimpleNamespace(name="t"), "needs a name"),
        (odd, "Nowhere"),
        (partial(odd), "Nowhere"),
        (partial(cast(Any, book), 1, 2, 3), "cannot tell what"),
        (partial(cast(Any, book), floor=1), "cannot tell what"),
    ],
)
def test_shapes_that_nobody_knows(tool: Any, said: str) -> None:
    with pytest.raises(tm.SchemaError, match=said):
        shapes_of([tool])


def test_functions_of_all_shapes_are_run() -> None:
    def run(name: str, tool: Any, **arguments: Any) -> Any:
        return tm.execute(tm.ToolCall(name=name, arguments=arguments), [tool])

    desk = Desk()
    assert run("book", desk.book, city="X") == "desk X"
    assert run("Desk", desk, city="X") == "called X"
    assert run("book", partial(book, nights=2), city="X") == "X 2"
    assert run("book", partial(book, "Y"), nights=3) == "Y 3"
    assert run("Room", Room, city="X") == Room(city="X")
    assert run("book", Hall().book, city="X") == "hall X 1"
    assert run("book", partial(Hall().book, nights=2), city="X") == "hall X 2"
    assert run("Hall", partial(Hall(), nights=3), city="X") == "hall X 3"
    assert run("find", Hall.find, city="X") == "found X"
    assert run("loose", loose, city="X") == "{'city': 'X'}"
    with pytest.raises(tm.ToolError, match="without a function"):
        run("t", McpTool(name="t", inputSchema=CITY))


OWN: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"properties": {"x": {"const": {"$ref": "#/c/P"}}}}, [{"x": {"$ref": "#/c/P"}}], [{"x": {"$ref": "#"}}]),
    ({"properties": {"x": {"enum": [{"$ref": "#/c"}], "default": {"$ref": "#"}}}},
     [{"x": {"$ref": "#/c"}}], [{"x": 1}]),
    ({"properties": {"$ref": {"type": "string"}}}, [{"$ref": "#/a"}], [{"$ref": 1}]),
    ({"$schema": D7, "properties": {"x": {"items": [{"type": "integer"}], "additionalItems": False, "type": "array"}}},
     [{"x": [1]}], [{"x": [1, 2]}, {"x": ["s"]}]),
    ({"$schema": D7, "properties": {"x": {"type": "integer"}, "y": {}}, "dependencies": {"x": ["y"]},
      "additionalProperties": False}, [{"y": 1}], [{"x": 1}]),
    ({"$schema": D7, "definitions": {"p": {"type": "string"}}, "properties": {"x": {"$ref": "#/definitions/p",
      "maxLength": 1}}}, [{"x": "long"}], [{"x": 1}]),
    ({"$schema": D4, "properties": {"x": {"type": "integer", "minimum": 3, "exclusiveMinimum": True}}},
     [{"x": 4}], [{"x": 3}]),
    ({"$schema": D4, "id": "http://x/y", "definitions": {"p": {"id": "#p", "type": "integer"}},
      "properties": {"x": {"$ref": "#p"}}}, [{"x": 4}], [{"x": "s"}]),
    ({"$id": "https://x/y.json", DEFS: {"p": {"$id": "p.json", "type": "object", DEFS: {"k": {"type": "integer"}},
      "properties": {"z": {"$ref": "#/$defs/k"}}}}, "properties": {"x": {"$ref": "p.json"}, "y": {
      "$ref": "p.json#/$defs/k"}}}, [{"x": {"z": 1}, "y": 2}], [{"x": {"z": "s"}}, {"y": "s"}]),
    ({DEFS: {"p": {"$anchor": "pp", "type": "integer"}, "q": {"$dynamicAnchor": "qq", "type": "string"}},
      "properties": {"x": {"$ref": "#pp"}, "y": {"$dynamicRef": "#qq"}}}, [{"x": 1, "y": "s"}], [{"x": "s"}, {"y": 1}]),
    ({"$schema": D19, "$recursiveAnchor": True, "properties": {"x": {"$recursiveRef": "#"}, "n": {"type": "integer"}}},
     [{"x": {"n": 1}}], [{"x": {"n": "s"}}]),
    ({"components": {"S": {"type": "integer"}}, "properties": {"x": {"$ref": "#/components/S"}}}, [{"x": 1}],
     [{"x": "s"}]),
    ({"properties": {"x": {"type": "string", "nullable": True}, "y": {"enum": ["a"], "nullable": True},
      "z": {"$ref": "#/$defs/p", "nullable": True}}, DEFS: {"p": {"type": "integer"}}},
     [{"x": None, "y": None, "z": None}, {"z": 1}], [{"z": "s"}, {"y": "b"}]),
]  # fmt: skip


@pytest.mark.parametrize(("own", "right", "wrong"), OWN, ids=range(len(OWN)))
def test_each_tool_is_read_under_its_own_draft_and_base(
    reference: Engine, own: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    """In the grammar, in the union, and by the tool's own schema: all say the same."""
    draft7 = {"name": "other", "parameters": {"$schema": D7, "type": "object"}}
    schema = schema_of([draft7, {"name": "t", "parameters": {"type": "object", **own}}])
    matcher = reference.grammars.matcher(schema)
    union = jsonschema.Draft202012Validator(schema.document)
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    for value, fits in [*((one, True) for one in right), *((one, False) for one in wrong)]:
        call = {"name": "t", "arguments": value}
        text = json.dumps(call, separators=(",", ":"))
        assert union.is_valid(call) is fits
        assert (walker.refused_at(matcher.fork(), text) is None) is fits, text
        if fits:
            schema.parse(text)


@pytest.mark.parametrize(
    "reference_",
    ["https://example.com/x.json", "#/properties/name", "#nowhere", "other.json#/a", "#twice", "https://twice/"],
)
def test_references_that_lead_nowhere_are_refused_in_the_tool(reference_: str) -> None:
    """Nor to a name that two schemas have, of which readers choose one or the other."""
    names = {"$anchor": "twice"}, {"$id": "https://twice/"}
    twice = {f"{at}{key}": {key: held} for one in names for key, held in one.items() for at in "ab"}
    schema = {"properties": {"x": {"$ref": reference_}}, DEFS: twice}
    tools = [{"name": "a", "parameters": {}}, {"name": "b", "inputSchema": schema}]
    both: list[dict[str, Any]] = [{}, {"guarantee": "checked"}]
    for words in both:
        with pytest.raises(tm.UnsupportedKeyword) as caught:
            tm.step("tool_call", tools=tools, **words)(lambda: "x")
        assert (caught.value.pointer, caught.value.tool) == ("/inputSchema/properties/x/$ref", "b")


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("target", "document"),
    [
        ({"name": "n", "strict": True, "schema": INTEGER}, INTEGER),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": INTEGER}}, INTEGER),
        ({"format": {"type": "json_schema", "name": "n", "schema": INTEGER}}, INTEGER),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({}, {}),
        ({"title": "any"}, {"title": "any"}),
    ],
)
def test_envelopes(target: Any, document: Any) -> None:
    assert schema_of(target).document == document


def test_an_envelope_of_text_holds_nothing() -> None:
    assert held_to({"type": "text"}) is None


@pytest.mark.parametrize("target", [{"foo": 1}, {"city": "string"}, {DEFS: {"a": {}}}, {"name": "x", "parameters": {}}])
def test_dicts_that_say_nothing_are_no_schema(target: Any) -> None:
    with pytest.raises(tm.SchemaRefused):
        schema_of(target)


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number


@pytest.mark.parametrize(
    ("target", "bad", "good"),
    [
        (Even, {"number": 1}, {"number": 2}),
        (HttpUrl, "urn:a", "http://a.b/"),
        (dict[int, int], {"a": 1}, {"1": 1}),
        (Annotated[Decimal, Field(max_digits=3)], 12345.0, 12.0),
    ],
)
def test_what_only_pydantic_knows_is_tried_again(target: Any, bad: Any, good: Any, tmp_path: Path) -> None:
    words: dict[str, Any] = {"schema": target, "guarantee": "checked", "retries": 5, "max_tokens": 64}
    with tm.session(FakeEngine({"generate": in_turn(bad, good)}), policy=tm.Policy()) as session:
        result = session.engine.generate("x", **words)
    assert (result.valid, result.guarantee, len(result.failed)) == (True, "checked", 1)
    with (
        tm.session(FakeEngine({"generate": bad}), policy=tm.Policy(), trace=f"file:{tmp_path / 'a'}") as session,
        pytest.raises(tm.CheckFailed) as failed,
    ):
        session.engine.generate("x", **words)
    assert len(failed.value.attempts) == 6
    made = [record.call for record in records(read_audit(tmp_path / "a"))]
    assert made == [attempt.audit_id for attempt in failed.value.attempts]


TRIES: list[tuple[list[Any], str]] = [
    ([{"number": 2}], "grammar"), ([{"number": 1}, {"number": 2}], "checked"), ([[0, 1]], "checked"),
    ([[0, 0], [0, 1]], "checked"),
]  # fmt: skip
"""Answers, the last of which fits, and how that one was held: `Even` by its grammar, until its own code refused one."""
PAIR = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2, "uniqueItems": True}


@pytest.mark.parametrize("way", ["generate", "agenerate", "stream", "astream"])
@pytest.mark.parametrize(("answers", "guarantee"), TRIES, ids=range(len(TRIES)))
def test_record_and_result_agree_about_what_held_an_attempt(
    way: str, answers: list[Any], guarantee: str, tmp_path: Path
) -> None:
    if "stream" in way:  # is never tried again
        answers = answers[-1:]
        guarantee = "grammar" if isinstance(answers[-1], dict) else "checked"
    engine = FakeEngine({way: in_turn(*answers)})
    target: Any = Even if isinstance(answers[-1], dict) else PAIR
    words: dict[str, Any] = {"schema": target, "guarantee": "checked", "retries": 2, "max_tokens": 64}

    async def streamed() -> Any:
        return [event async for event in engine.astream("x", **words)][-1].result

    ways: dict[str, Any] = {
        "generate": lambda: engine.generate("x", **words),
        "agenerate": lambda: asyncio.run(engine.agenerate("x", **words)),
        "stream": lambda: list(engine.stream("x", **words))[-1].result,
        "astream": lambda: asyncio.run(streamed()),
    }
    with tm.session(engine, policy=tm.Policy(), trace=f"file:{tmp_path / 'a'}"):
        result = ways[way]()
    *failed, last = records(read_audit(tmp_path / "a"))
    assert (last.guarantee, last.call, result.guarantee) == (guarantee, result.audit_id, guarantee)
    assert [record.guarantee for record in failed] == ["checked"] * (len(answers) - 1)


def _outcomes(engine: FakeEngine) -> list[Any]:
    words: dict[str, Any] = {"schema": Even, "max_tokens": 32}

    async def streamed() -> None:
        async for _ in engine.astream("x", **words):
            pass

    return [
        lambda: engine.generate("x", **words),
        lambda: asyncio.run(engine.agenerate("x", **words)),
        lambda: list(engine.stream("x", **words)),
        lambda: asyncio.run(streamed()),
    ]


@pytest.mark.parametrize("way", range(4))
def test_a_violation_keeps_the_text_and_the_record(way: int, tmp_path: Path) -> None:
    names = ("generate", "agenerate", "stream", "astream")
    engine = FakeEngine({name: {"number": 1} for name in names})
    with (
        tm.session(engine, policy=tm.Policy(), trace=f"file:{tmp_path / 'a'}"),
        pytest.raises(tm.SchemaViolation, match="guarantee='checked'") as caught,
    ):
        _outcomes(engine)[way]()
    error = caught.value
    (record,) = records(read_audit(tmp_path / "a"))
    assert error.result is not None
    assert (error.text, error.result.text, error.result.valid) == ('{"number":1}', '{"number":1}', False)
    assert error.audit_id == error.result.audit_id == record.call
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.text, copy.audit_id) == (type(error), str(error), error.text, error.audit_id)


DECODED: list[Any] = [
    [{"name": "a", "parameters": {"$schema": D4, "type": "object", "additionalProperties": False, "required": ["n"],
      "properties": {"n": {"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 99}}}},
     {"name": "b", "input_schema": {"type": "object", "additionalProperties": False, "required": ["r"],
      "properties": {"r": {"const": {"$ref": "#/c/P"}}}}}],
    [{"name": "k", "inputSchema": {"$schema": D7, "type": "object", "additionalProperties": False, "required": ["u"],
      "properties": {"u": {"type": "string", "format": "url", "maxLength": 4, "nullable": True}}}}],
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["ar", "linear_spec", "quadratic_spec", "diffusion"])
def test_every_mode_writes_calls_that_fit(reference: Engine, mode: Mode, temperature: float) -> None:
    for tools in DECODED:
        result = reference.generate("Call.", tools=tools, mode=mode, temperature=temperature, max_tokens=48)
        assert result.valid
