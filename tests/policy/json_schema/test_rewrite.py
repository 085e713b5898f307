"""Rewrites keep the accepted values: jsonschema accepts the same values before and after."""

from __future__ import annotations

import random
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.policy.errors import UnsupportedKeyword
from trimode.policy.grammar.compiler import check
from trimode.policy.json_schema.disjoint import disjoint
from trimode.policy.json_schema.document import Document, draft_of
from trimode.policy.json_schema.negate import negated, other_than
from trimode.policy.json_schema.rewrite import rewritten
from trimode.policy.schema.targets import schema_of

Json = Any
NAMES: Final = ("a", "b", "c", "k")
SCALARS: Final[list[Json]] = [None, True, False, 0, 1, 2, 3, 7, 1.0, 2.5, -1, "", "a", "b", "ab", "x", "yy", "abc\n"]
GONE: Final = ("not", "oneOf", "if", "then", "else", "dependentRequired", "dependentSchemas", "propertyNames")


def of(title: str) -> dict[str, Json]:
    return {"$schema": f"http://json-schema.org/{title}/schema#"}


def values(seed: int, count: int = 160) -> list[Json]:
    """Scalars, and objects and arrays with few names and scalars, so that schemas often fit them."""
    rng = random.Random(seed)

    def one(depth: int) -> Json:
        kind = rng.random()
        if depth == 0 or kind < 0.2:
            return rng.choice(SCALARS)
        if kind < 0.85:
            found = {name: one(rng.randrange(depth)) for name in NAMES if rng.random() < 0.5}
            return found | ({"k": rng.choice("abx")} if rng.random() < 0.4 else {})
        return [one(depth - 1) for _ in range(rng.randrange(4))]

    return [*SCALARS, {}, [], *(one(2) for _ in range(count))]


def keywords(document: Json) -> set[str]:
    if isinstance(document, list):
        return set().union(*map(keywords, document))
    return set(document).union(*map(keywords, document.values())) if isinstance(document, dict) else set()


def verdicts(document: Json, tried: list[Json]) -> list[bool]:
    kind = draft_of(document)
    validator = kind(document, format_checker=kind.FORMAT_CHECKER)
    return [validator.is_valid(value) for value in tried]


CAT = {"type": "object", "properties": {"k": {"const": "a"}, "a": {"type": "integer"}}, "required": ["k"]}
DOG = {"type": "object", "properties": {"k": {"enum": ["b", "x"]}, "b": {"type": "string"}}, "required": ["k"]}
KINDS: Final[list[dict[str, Json]]] = [
    {"oneOf": [CAT, DOG]},
    {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "$defs": {"Cat": CAT, "Dog": DOG}},
    {"oneOf": [{"$ref": "#/properties/c/oneOf/0"}, DOG], "properties": {"c": {"oneOf": [CAT, DOG]}}},
    {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": ["array", "null"]}]},
    {"oneOf": [{"const": 1}, {"const": 2}, {"const": 2}], "type": "number"},
    {"oneOf": [{"minimum": 3}, {"maximum": 2}], "type": "integer"},
    {"type": "object", "oneOf": [{"required": ["a", "b"]}, {"required": ["c"]}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}]},
    {"oneOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "string"}}}]},
    {"oneOf": [
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"b": {}, "c": {}}, "required": ["b"], "additionalProperties": False}]},
    {"oneOf": [
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/D"}, "k": {"enum": ["a"]}},
         "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/D"}, "b": {}, "k": {"enum": ["b", "x"]}},
         "additionalProperties": False}], "$defs": {"D": {"type": "integer", "$anchor": "unused"}}},
    {"not": {"type": "string"}, "properties": {"a": {"$id": "https://example.com/a", "type": "string"}}},
    {"type": "object", "dependentRequired": {"a": ["b"], "b": ["a", "c"]}},
    {"dependentRequired": {"a": ["b"]}, "required": ["a"]},
    {"dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}, "required": ["b"]}, "c": False}},
    {**of("draft-07"), "dependencies": {"a": ["b"], "c": {"properties": {"k": {"const": "x"}}}}},
    {**of("draft-04"), "dependencies": {"a": ["b"]}, "not": {"enum": [1, 2.5, "x"]}, "type": ["object", "number"]},
    {"not": {"const": 2}},
    {"type": "integer", "not": {"enum": [1, 2, 7]}, "minimum": 1},
    {"type": ["string", "null"], "not": {"enum": ["a", "ab", "x"]}},
    {"not": {"enum": ["", "a", 1, None]}, "type": ["string", "integer", "boolean"]},
    {"type": ["string", "integer"], "not": {"type": "string"}},
    {"not": {"type": ["object", "array"]}},
    {"not": {"required": ["a", "b"]}},
    {"type": "object", "not": {"required": ["a"]}, "properties": {"b": {"type": "integer"}}},
    {"type": "object", "not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"not": {"allOf": [{"type": "string"}, {"minLength": 2}]}},
    {"not": {"not": {"type": "object"}}},
    {"type": "object", "not": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
    {"not": {"minimum": 1, "type": "number"}},
    {"type": "object", "properties": {"k": {"enum": ["a", "b"]}}, "if": {"properties": {"k": {"const": "a"}}},
     "then": {"required": ["a"]}, "else": {"required": ["b"]}},
    {"if": {"properties": {"k": {"enum": ["a", "x"]}}, "required": ["k"]}, "then": {"required": ["b"]}},
    {"if": {"type": "string"}, "else": {"type": "object"}},
    {"if": {"type": "string"}, "then": {"minLength": 1}},
    {"then": {"type": "string"}, "type": ["integer", "string"]},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "additionalProperties": False, "minProperties": 2},
    {"properties": {"a": {}, "b": {}, "c": {}}, "additionalProperties": False, "maxProperties": 1, "required": ["b"]},
    {"properties": {"a": {}, "b": {}}, "additionalProperties": False, "minProperties": 3},
    {"required": ["a", "b"], "minProperties": 2},
    {"type": "array", "uniqueItems": True, "maxItems": 1},
    {"type": "array", "uniqueItems": False},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "properties": {"c": {}, "a": {"type": "integer"}}},
    {"propertyNames": {"$ref": "#/definitions/n"}, "definitions": {"n": {"type": "string", "enum": ["a", "c"]}},
     "additionalProperties": {"type": "integer"}},
    {"propertyNames": {"pattern": "^[ab]$"}, "properties": {"c": {"type": "integer"}, "a": {"type": "integer"}}},
    {"enum": [1, "a", {"a": 1}, None, [1, 1]], "not": {"type": "string"}, "uniqueItems": True},
    {**of("draft-07"), "properties": {"a": {"$ref": "#/definitions/n", "type": "string"}},
     "definitions": {"n": {"oneOf": [{"type": "integer"}, {"type": "null"}]}}},
    {"properties": {"a": {"anyOf": [{"not": {"const": "x"}, "type": "string"}, {"type": "null"}]}}},
    {"type": "object", "properties": {"c": {"$ref": "#"}, "a": {"not": {"enum": ["a", "b"]}, "type": "string"}}},
    {"anyOf": [{"type": "object"}, {"type": "integer"}], "not": {"type": "integer"},
     "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
]  # fmt: skip


@pytest.mark.parametrize("document", KINDS, ids=lambda document: str(document)[:70])
def test_same_values_before_and_after(document: dict[str, Json]) -> None:
    before, tried = repr(document), values(len(str(document)))
    plain = rewritten(document)
    assert repr(document) == before, "the given document is not touched"
    assert not set(GONE) & (keywords(plain) - keywords(document.get("definitions", {})))
    assert verdicts(plain, tried) == verdicts(document, tried)
    assert any(verdicts(document, tried)) or document.get("minProperties") == 3
    check(schema_of(document))


LEFT_ALONE: Final[list[dict[str, Json]]] = [
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {**of("draft-06"), "if": {"type": "string"}, "then": False},
    {"oneOf": [{"pattern": "^a"}, {"minLength": 2}]},
    {"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer"},
    {"not": {"pattern": "^a"}},
    {"not": {"format": "date"}},
    {"not": {"type": "integer"}},
    {"not": {"enum": [[1]]}},
    {"not": {"items": {"type": "string"}}},
    {"not": {"properties": {"a": {"pattern": "^a"}}}},
    {"if": {"pattern": "^a"}, "then": {"minLength": 2}},
    {"contains": {"type": "integer"}},
    {"type": "array", "uniqueItems": True},
    {"type": "object", "minProperties": 2},
    {"propertyNames": {"minLength": 2}},
    {"propertyNames": {"pattern": "^a"}, "additionalProperties": {"type": "integer"}},
    {"dependencies": {"a": ["b"]}},
    {**of("draft-07"), "dependentRequired": {"a": ["b"]}},
    {"unevaluatedProperties": False},
    {"not": {"type": "string"}, "properties": {"a": {"$anchor": "here"}, "b": {"$ref": "#here"}}},
    {"not": {"type": "string"}, "properties": {"a": {"$id": "https://example.com/a", "items": {"$ref": "#"}}}},
]


@pytest.mark.parametrize("document", LEFT_ALONE, ids=lambda document: str(document)[:70])
def test_left_alone_without_a_proof(document: dict[str, Json]) -> None:
    assert rewritten(document) == document


LEAVES = st.sampled_from(
    [
        {"type": "string"}, {"type": "integer"}, {"type": "object"}, {"type": ["number", "null"]}, {"const": 1},
        {"const": "a"}, {"enum": ["a", "b", None]}, {"enum": [1, 2.5, True]}, {"required": ["a"]},
        {"required": ["a", "b"]}, {"minimum": 2}, {"maximum": 2}, {"minLength": 1}, {"maxItems": 1}, {"pattern": "^a"},
        True, False, {}, {"dependentRequired": {"a": ["b"]}}, {"additionalProperties": False, "properties": {"a": {}}},
        {"$ref": "#/$defs/D"}, {"minProperties": 1},
        {"type": "object", "required": ["k"], "properties": {"k": {"const": "a"}}},
        {"properties": {"a": {"const": 1}, "k": {}}, "additionalProperties": False},
    ]
)  # fmt: skip


def _grown(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    lists = st.lists(inner, min_size=1, max_size=3)
    optional: dict[str, st.SearchStrategy[Json]] = {
        "not": inner, "if": inner, "then": inner, "else": inner, "oneOf": lists, "anyOf": lists, "allOf": lists,
        "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "type": st.sampled_from(["object", "string", ["object", "integer"], "number"]),
        "enum": st.lists(st.sampled_from(SCALARS), min_size=1, max_size=4),
        "propertyNames": st.just({"enum": ["a", "k"]}), "additionalProperties": inner,
        "minProperties": st.integers(0, 3), "maxProperties": st.integers(0, 3),
    }  # fmt: skip
    return st.fixed_dictionaries({}, optional=optional)


SCHEMAS = st.recursive(LEAVES, _grown, max_leaves=8)
DRAFTS = st.sampled_from([{}, of("draft-04"), of("draft-06"), of("draft-07")])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(schema=SCHEMAS, definition=SCHEMAS, draft=DRAFTS, seed=st.integers(0, 9))
def test_any_schema_takes_the_same_values_when_rewritten(
    schema: Json, definition: Json, draft: Json, seed: int
) -> None:
    if "$ref" in str(definition):  # a circle would keep jsonschema busy for ever
        definition = {"type": "integer"}
    document = {**draft, "properties": {"c": schema}, "$defs": {"D": definition}, "allOf": [schema]}
    tried = values(seed, 60)
    assert verdicts(rewritten(document), tried) == verdicts(document, tried), rewritten(document)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(a=SCHEMAS, b=SCHEMAS)
def test_disjoint_schemas_share_no_value_and_opposites_share_none_and_leave_none(a: Json, b: Json) -> None:
    document = Document({"$defs": {"D": {"type": "string", "minLength": 1}}}, steps_left=10**6)
    opposite = negated(a, document, [])
    apart, validator = disjoint(a, b, document), jsonschema.Draft202012Validator(document.root)
    for value in values(3, 40):
        fits = document.fits(value, a)
        assert not (apart and fits and document.fits(value, b))
        assert opposite is None or validator.evolve(schema=opposite).is_valid(value) != fits


@given(words=st.lists(st.text(alphabet="ab^]\\-.é ", max_size=4), max_size=5), text=st.text("ab^]\\-.é \n", max_size=5))
def test_other_than_takes_every_other_string(words: list[str], text: str) -> None:
    pattern = other_than(words)
    assert pattern is not None
    for tried in (text, *words):
        assert jsonschema.Draft202012Validator({"pattern": pattern}).is_valid(tried) == (tried not in words)


def test_long_or_unreadable_lists_have_no_pattern() -> None:
    assert other_than(["a\n"]) is None
    assert other_than(["ab" * 50] * 7) is None


_PATTERNS: Final[dict[str, Any]] = {
    "type": "object",
    "patternProperties": {"^a": {"type": "integer"}},
    "additionalProperties": False,
}
_REQUIRED: Final[dict[str, Any]] = {"type": "object", "properties": {"ab": {"type": "integer"}}, "required": ["ab"]}


@pytest.mark.parametrize(
    "document",
    [
        {"oneOf": [_PATTERNS, _REQUIRED]},
        {"oneOf": [{"type": "object", "propertyNames": {"pattern": "^a"}}, _REQUIRED]},
        {"$defs": {"A": _PATTERNS}, "oneOf": [{"$ref": "#/$defs/A"}, _REQUIRED]},
    ],
)
def test_one_of_beside_patterns_of_keys_is_refused_unless_it_is_rewritten(document: dict[str, Any]) -> None:
    """llguidance 1.9.1 takes the alternatives for disjoint: {"ab": 1} fits both."""
    with pytest.raises(UnsupportedKeyword) as refused:
        check(schema_of(document))
    assert (refused.value.pointer, refused.value.keyword) == ("/oneOf", "oneOf")
    told_apart = [
        {**part, "properties": {**part.get("properties", {}), "k": {"const": k}}, "required": ["k"]}
        for k, part in enumerate((_PATTERNS, _REQUIRED))
    ]
    check(schema_of({"oneOf": told_apart}))
