"""Texts derived from a schema's keywords: short, canonical, and valid where the grammar accepts them."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from loaded import allowed
from schemas_at_random import SCHEMAS

from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaRefused, SchemaTooComplex
from trimode.policy.grammar import compiler as grammar
from trimode.policy.grammar.completion import CompletionSearch
from trimode.policy.json_schema.pattern_samples import samples
from trimode.policy.json_schema.shortest_text import shortest
from trimode.policy.schema.targets import schema_of

Json = Any
NULL: Final[Json] = {"type": "null"}
DRAFT_4: Final = "http://json-schema.org/draft-04/schema#"
TREE: Final[Json] = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}, "n": {"minimum": 4}},
            "required": ["n", "left"],
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, '""'), ({"type": "integer"}, "0"), ({"type": ["array", "integer"]}, "0"), ({"type": "boolean"}, "true"),
        ({"enum": ["long", [1], {"a": 1}]}, "[1]"), ({"const": {"b": 1, "a": "ä"}}, '{"b":1,"a":"ä"}'),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "0.5"),
        ({"type": "number", "minimum": 0.25, "exclusiveMaximum": 0.5}, "0.25"),
        ({"type": "integer", "minimum": 8, "multipleOf": 7}, "14"), ({"type": "integer", "maximum": -8}, "-8"),
        ({"type": "integer", "minimum": 4, "exclusiveMinimum": True, "$schema": DRAFT_4}, "5"),
        ({"type": "string", "minLength": 3}, '"aaa"'), ({"type": "string", "format": "date"}, '"2000-01-01"'),
        ({"type": "string", "pattern": "^[0-9a-f]{3}$"}, '"aaa"'),
        ({"type": "string", "pattern": "^x", "minLength": 2}, '"xa"'),
        ({"type": "array", "minItems": 2, "items": {"type": "null"}}, "[null,null]"),
        ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2, "items": {"const": 1}}, "[null,1]"),
        ({"type": "object", "properties": {"a": {}, "b": {}, "c": NULL}, "required": ["z", "c"]}, '{"c":null,"z":""}'),
        ({"type": "object", "patternProperties": {"^a": NULL}, "required": ["ab", "b"]}, '{"ab":null,"b":""}'),
        ({"allOf": [{"type": "object", "properties": {"a": {"minimum": 3}}},
                    {"properties": {"a": {"type": "number"}}, "required": ["a"]}]}, '{"a":3}'),
        ({"type": ["number", "string"], "allOf": [{"type": "integer"}], "anyOf": [{"minimum": 500}, {"minimum": 30}]},
         "30"),
        (TREE, '{"left":null,"n":""}'),
    ],
)  # fmt: skip
def test_texts_are_those_of_the_keywords(reference: Engine, schema: Json, text: str) -> None:
    assert shortest(schema) == text
    assert ended(reference, schema) == text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "minLength": 3.0}, '"aaa"'), ({"type": "array", "minItems": 1.0, "items": NULL}, "[null]"),
        ({"type": "array", "prefixItems": 3, "minItems": 1, "items": NULL}, "[null]"),
        ({"type": "object", "properties": {"a": False, "b": {}, "c": {}}, "required": ["c"], "minProperties": 2},
         '{"b":"","c":""}'),
        ({"type": "string", "minLength": 10}, '"-*--*--*--"'),
    ],
)  # fmt: skip
def test_shapes_that_no_grammar_may_take_are_read_all_the_same(schema: Json, text: str) -> None:
    assert shortest(schema, "-*-") == text


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "type": "string"},
        {"type": "string", "format": "date", "pattern": "^2[13]"},
    ],
)
def test_what_keywords_do_not_tell_is_searched(reference: Engine, schema: Json) -> None:
    text = ended(reference, schema)
    assert text is not None
    assert text != shortest(schema)


@pytest.mark.parametrize(
    "schema",
    [
        False, {"$ref": "#"}, {"$ref": "#/nowhere"}, {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {"enum": []},
        {"type": "string", "pattern": "^\\ud800$"}, {"type": "array", "items": False, "minItems": 1},
        {"type": "integer", "minimum": 3, "maximum": 2}, {"type": "object", "minProperties": 1},
        {"type": "string", "minLength": 10**9}, {"type": "array", "minItems": 10**9},
        {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": n}]} for n in range(2000)]},
    ],
)  # fmt: skip
def test_where_there_is_none_none_is_given(schema: Json) -> None:
    assert shortest(schema) is None


def test_half_a_surrogate_pair_is_no_sample() -> None:
    assert samples("^(\\ud800|a)$") == ["a"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 5000}, {"type": "array", "minItems": 300, "items": {"type": "integer"}},
        {"type": "object", "properties": {f"property_{n}": {} for n in range(90)},
         "required": [f"property_{n}" for n in range(90)]},
    ],
)  # fmt: skip
def test_long_texts_are_known_without_a_search(
    reference: Engine, monkeypatch: pytest.MonkeyPatch, schema: Json
) -> None:
    monkeypatch.setattr(CompletionSearch, "find", None)
    assert ended(reference, schema) is not None


@given(SCHEMAS)
@settings(max_examples=150, deadline=None)
def test_whatever_is_known_first_fits(reference: Engine, schema: Json) -> None:
    target = schema_of(schema)
    try:
        start = reference.grammars.compile(target).start
    except SchemaRefused:
        return
    completion = start.completion(4000)
    assert completion is not None
    target.parse(reference.tokenizer.decode(completion[:-1]))
    for token in completion[:-1]:
        assert token in allowed(start)
        start.advance([token])
    assert completion[-1] in allowed(start)


def test_a_text_that_was_read_off_needs_no_search(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, search = list[Any](), CompletionSearch.find

    def noted(self: CompletionSearch, *args: Any) -> list[int] | None:
        asked.append(args)
        return search(self, *args)

    monkeypatch.setattr(CompletionSearch, "find", noted)
    reference.grammars.compile(schema_of(TREE))
    assert not asked
    monkeypatch.setattr(grammar, "shortest", lambda *_: "[]")
    assert ended(reference, TREE) is not None
    assert asked


@pytest.mark.parametrize("guess", [None, '{"left":null,"n":""}'])
def test_compiling_and_an_ending_share_their_time(
    reference: Engine, monkeypatch: pytest.MonkeyPatch, guess: str | None
) -> None:
    monkeypatch.setattr(grammar, "shortest", lambda *_: guess)
    monkeypatch.setattr(grammar, "COMPLETION_TOKENS", 7)
    monkeypatch.setattr(grammar, "COMPLETION_SECONDS", -1.0)
    with pytest.raises(SchemaTooComplex, match=r"no complete text was found in -1\.0 s"):
        reference.grammars.compile(schema_of(TREE))


def ended(engine: Engine, schema: Json) -> str | None:
    """The text of the completion that a call would start with."""
    found = engine.grammars.compile(schema_of(schema)).start.completion(4000)
    return None if found is None else engine.tokenizer.decode(found[:-1])
