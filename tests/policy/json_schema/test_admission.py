"""Validation of schemas: every refusal is an error of ours that says where, why and what to do, and comes quickly."""

from __future__ import annotations

import gc
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loaded import allowed

from trimode.policy import watchdog as in_time_module
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import (
    MalformedSchema,
    SchemaError,
    SchemaRefused,
    SchemaTooComplex,
    SchemaViolation,
    UnsatisfiableSchema,
    UnsupportedKeyword,
)
from trimode.policy.grammar import compiler as grammar
from trimode.policy.grammar.compiler import Compiled, check
from trimode.policy.grammar.walker import Walker
from trimode.policy.json_schema import admission
from trimode.policy.json_schema.document import draft_of, heaviest
from trimode.policy.json_schema.meta_schema import LEFT_TO_META_SCHEMAS, fits_every_draft
from trimode.policy.json_schema.pattern_samples import samples
from trimode.policy.json_schema.regex_dialect import is_slow
from trimode.policy.json_schema.serialize import texts_of
from trimode.policy.schema.targets import Schema, schema_of
from trimode.policy.schema.texts import Regex
from trimode.policy.watchdog import MAX_ABANDONED, OutOfTime, abandoned_work, in_time

Json = Any
SECONDS: Final = 1.0


def refused(target: Json, **options: Any) -> SchemaRefused:
    """The refusal, which has to come in time and to be complete."""
    start = time.perf_counter()
    with pytest.raises(SchemaRefused) as caught:
        check(schema_of(target, **options))
    assert time.perf_counter() - start < SECONDS
    assert caught.value.hint
    assert caught.value.hint in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def nested(levels: int, key: str) -> Json:
    schema: Json = {}
    for _ in range(levels):
        schema = {key: schema}
    return schema


CIRCLE: dict[str, Json] = {}
CIRCLE["items"] = CIRCLE


def wrapped(first: Json, wrap: Callable[[Json], Json], times: int) -> Json:
    for _ in range(times):
        first = wrap(first)
    return first


DOUBLED = wrapped({}, lambda part: {"properties": {"a": part, "b": part}}, 40)
"""A document that would exceed any memory if its references were expanded."""
DEEP_TUPLE = wrapped((), lambda part: (part,), 50_000)
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("document", "kind", "pointer", "keyword"),
    [
        ({"type": "frob"}, MalformedSchema, "/type", "type"),
        ({"properties": {"a/b": {"minLength": "x"}}}, MalformedSchema, "/properties/a~1b/minLength", "minLength"),
        ({"required": ["a", "a"]}, MalformedSchema, "/required", "required"),
        ({"$ref": 5}, MalformedSchema, "/$ref", "$ref"),
        ({"anyOf": []}, MalformedSchema, "/anyOf", "anyOf"),
        ({"items": [{}]}, MalformedSchema, "/items", "items"),
        ({"pattern": "("}, MalformedSchema, "/pattern", "pattern"),
        ({"minimum": math.inf}, MalformedSchema, "/minimum", "minimum"),
        ({"enum": [1, {2}]}, MalformedSchema, "/enum/1", "enum"),
        ({"enum": [(1, 2)]}, MalformedSchema, "/enum/0", "enum"),
        ({"properties": {1: {}}}, MalformedSchema, "/properties", "properties"),
        ({"const": "\ud800"}, MalformedSchema, "/const", "const"),
        ({"properties": {"\udfff": {}}}, MalformedSchema, "/properties", "properties"),
        ({"$schema": 7}, MalformedSchema, "/$schema", "$schema"),
        ({"$schema": "https://example.com/mine"}, UnsupportedKeyword, "/$schema", "$schema"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, UnsupportedKeyword, "/$schema", "$schema"),
        ({"$ref": "#/$defs/none"}, UnsupportedKeyword, "/$ref", "$ref"),
        ({"properties": {"a": {"$ref": "https://example.com/a"}}}, UnsupportedKeyword, "/properties/a/$ref", "$ref"),
        ({"$ref": "file:///etc/hostname"}, UnsupportedKeyword, "/$ref", "$ref"),
        ({"items": {"format": "idn-email"}}, UnsupportedKeyword, "/items/format", "format"),
        ({"minLength": 10**20}, UnsupportedKeyword, "/minLength", "minLength"),
        ({"items": {"enum": [-(2**64)]}}, UnsupportedKeyword, "/items/enum", "enum"),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, UnsupportedKeyword, "/minProperties", "minProperties"),
        ({"$ref": "#"}, UnsatisfiableSchema, "/$ref", "$ref"),
        ({"items": {"anyOf": [{"$ref": "#/items"}, {"type": "null"}]}}, UnsatisfiableSchema, "/items/anyOf/0/$ref",
         "$ref"),
        ({"$ref": "#/$defs/N", "$defs": {"N": NODE}}, UnsatisfiableSchema, "/$ref", "$ref"),
        ({"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]}, UnsatisfiableSchema,
         "/properties/c/$ref", "$ref"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, UnsatisfiableSchema, "/items/$ref", "$ref"),
        ({"enum": []}, UnsatisfiableSchema, "/enum", "enum"),
        ({"items": {"type": "integer", "minimum": 5, "maximum": 2}, "minItems": 1, "type": "array"},
         UnsatisfiableSchema, "/items/minimum", "minimum"),
        ({"properties": {"a": {"not": {}}}, "required": ["a"], "type": "object"}, UnsatisfiableSchema,
         "/properties/a/not", "not"),
        ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["a"]}]}, UnsatisfiableSchema, "/oneOf",
         "oneOf"),
        (False, UnsatisfiableSchema, "", ""),
        ({"enum": [1, 10**5000]}, SchemaTooComplex, "/enum/1", "enum"),
        ({"properties": {10**5000: {}}}, MalformedSchema, "/properties", "properties"),
        ({"const": DEEP_TUPLE}, MalformedSchema, "/const", "const"),
        ({"$schema": "http://["}, UnsupportedKeyword, "/$schema", "$schema"),
        ([{"name": "x", "parameters": {"properties": {"a": CIRCLE}}}], SchemaTooComplex,
         "/parameters/properties/a/items/items/items/items", "items"),
        ([{"name": "x", "parameters": DOUBLED}], SchemaTooComplex, "/properties", "properties"),
        ([{"name": "x", "parameters": {"$schema": {1}}}], MalformedSchema, "/parameters/$schema", "$schema"),
        ({"enum": ["a" * 60], "pattern": "(a|aa)" * 40 + "b", "not": {"const": 3}}, UnsupportedKeyword, "/not", "not"),
        (nested(3000, "items"), SchemaTooComplex, "/items/items/items/items/items/items/items/items", "items"),
        (CIRCLE, SchemaTooComplex, "/items/items/items/items/items/items/items/items", "items"),
        ({"enum": list(range(200_000))}, SchemaTooComplex, "/enum", "enum"),
        ({"type": "object", "required": list(map(str, range(5000)))}, SchemaTooComplex, "/required", "required"),
        ({"items": {"pattern": "ab" * 6000}}, SchemaTooComplex, "/items/pattern", "pattern"),
        ({"patternProperties": {f"^{n}": {} for n in range(99)}}, SchemaTooComplex, "/patternProperties",
         "patternProperties"),
        ({"const": "x" * 3_000_000}, SchemaTooComplex, "/const", "const"),
        ({"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {"type": "string"}}} for i in range(8)]}
                    for j in range(8)]}, SchemaTooComplex, "/allOf", "allOf"),
    ],
)  # fmt: skip
def test_refusals_say_what_where_and_what_to_do(
    document: Json, kind: type[SchemaRefused], pointer: str, keyword: str
) -> None:
    error = refused(document)
    assert (type(error), error.pointer, error.keyword) == (kind, pointer, keyword)


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#/$defs/N", "$defs": {"N": {**NODE, "required": []}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]}]},
        {"properties": {"c": {"$ref": "#"}}, "required": ["c"]},
        {"$defs": {"never": NODE, "N": NODE}, "type": "string"},
        {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"], "minProperties": 2},
        {"type": "object", "minProperties": 2, "maxProperties": 3},
        {"items": {"patternProperties": {"^a": {}}, "minProperties": 2, "required": ["a"]}},
        {"const": "a\0b"},
        {"default": 10**30, "examples": [10**30], "type": "integer"},
        {"type": "object", "properties": {"default": {"type": "integer"}, "title": {"type": "string"}}},
        {"enum": [str(n) for n in range(20_000)]},
        {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [*range(3000), *map(str, range(3000)), None]},
        {"type": "string", "maxLength": 10**9},
        nested(40, "items"),
    ],
    ids=lambda document: str(document)[:60],
)
def test_admitted(document: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of compiling is tested elsewhere, because a busy machine reaches it sooner."""
    monkeypatch.setattr(grammar, "COMPILE_SECONDS", 10.0)
    start = time.perf_counter()
    check(schema_of(document))
    assert time.perf_counter() - start < SECONDS


def test_tools_are_refused_at_the_place_in_the_tool_list() -> None:
    tool = {"name": "x", "parameters": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}
    error = refused([{"name": "y", "parameters": {}}, tool])
    assert (error.pointer, error.tool) == ("/parameters/properties/a/uniqueItems", "x")


def test_tools_are_read_under_the_draft_that_they_name() -> None:
    draft = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}
    tools = [{"name": name, "parameters": {**draft, "dependencies": {"a": ["b"]}}} for name in ("x", "y")]
    schema = schema_of(tools)
    check(schema)
    assert schema.parse('{"name":"x","arguments":{"b":1}}')
    with pytest.raises(SchemaViolation):
        schema.parse('{"name":"y","arguments":{"a":1}}')
    mixed = schema_of([tools[0], {"name": "z", "parameters": {"type": "object", "prefixItems": [{}]}}])
    check(mixed)
    with pytest.raises(SchemaViolation):
        mixed.parse('{"name":"x","arguments":{"a":1}}')


def test_order_of_properties_is_part_of_a_grammar(reference: Engine) -> None:
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    for names in ("ab", "ba"):
        properties = {name: {"const": 1} for name in names}
        document = {"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": False}
        text = f'{{"{names[0]}":1,"{names[1]}":1}}'
        assert walker.refused_at(reference.grammars.matcher(schema_of(document)), text) is None


def test_unknown_formats_are_left_out_with_a_note_or_refused(reference: Engine) -> None:
    document = {"properties": {"a": {"type": "string", "format": "path"}, "b": {"format": "date"}}}
    for schema in (schema_of(document), schema_of(document, formats="annotate")):
        (note,) = reference.grammars.notes(schema)
        assert "'path' at /properties/a/format" in note
    for word in ("assert", "strict"):
        error = refused(document, formats=word)
        assert (error.pointer, "formats='annotate'" in error.hint) == ("/properties/a/format", True)
    # jsonschema checks this one, so leaving it out could let invalid text pass.
    for word in ("annotate", "assert"):
        assert refused({"format": "idn-email"}, formats=word).pointer == "/format"
    with pytest.raises(SchemaError, match="annotate, assert"):
        schema_of(document, formats=cast(Any, "loose"))


@pytest.mark.parametrize("name", ["url", "int64", "byte", "semver", "int32", "double", "password", "path", ""])
def test_formats_of_other_vocabularies_are_annotations(reference: Engine, name: str) -> None:
    schema = schema_of([{"name": "x", "parameters": {"type": "object", "properties": {"a": {"format": name}}}}])
    assert reference.grammars.notes(schema) == (
        f"format {name!r} at /parameters/properties/a/format of tool 'x' is not enforced: nothing here checks it",
    )


def test_switches_in_a_schema_are_without_effect(reference: Engine) -> None:
    loose = {"x-guidance": {"whitespace_flexible": True, "lenient": True}, "type": "array", "items": {"const": 1}}
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    assert walker.refused_at(reference.grammars.matcher(schema_of(loose)), "[1,1]") is None
    assert walker.refused_at(reference.grammars.matcher(schema_of(loose)), "[1, 1]") == 3


def test_equal_schemas_are_compiled_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_, asked = reference.grammars.compile, list[Schema]()

    def counted(schema: Schema) -> Compiled:
        asked.append(schema)
        return compile_(schema)

    monkeypatch.setattr(reference.grammars, "compile", counted)
    for formats in ("assert", "strict", "annotate"):
        reference.grammars.matcher(schema_of({"type": "integer", "maximum": 31_415}, formats=formats))
    assert len(asked) == 2


def test_compiling_and_checking_end_at_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "COMPILE_SECONDS", 0.01)
    monkeypatch.setattr(grammar, "_refusal", lambda _: busy(0.2))
    error = refused({"items": {"enum": ["a", "b" * 9]}})
    assert (type(error), error.pointer, error.keyword) == (SchemaTooComplex, "/items/enum", "enum")
    monkeypatch.setattr(admission, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(admission, "fits_every_draft", lambda _: busy(0.2))
    assert isinstance(refused({"type": "integer"}), SchemaTooComplex)
    assert isinstance(refused({}), SchemaTooComplex)


def test_what_was_given_up_does_not_pile_up() -> None:
    """While abandoned work still runs, nothing new is compiled, but documents are checked."""
    for work in abandoned_work():
        work.over.wait()
    enough = threading.Event()

    def endless() -> None:
        while not enough.is_set():
            sum(range(1000))

    try:
        for _ in range(MAX_ABANDONED):
            with pytest.raises(OutOfTime):
                in_time(endless, 0.01)
        assert len(abandoned_work()) == MAX_ABANDONED
        schema = schema_of({"type": "integer"})
        with pytest.raises(SchemaTooComplex, match="try again in some seconds"):
            check(schema)
        with pytest.raises(SchemaTooComplex, match="try again in some seconds"):
            check(Regex("a+"))
    finally:
        enough.set()
    for work in abandoned_work():
        work.over.wait()
    check(schema)


def test_where_no_thread_can_be_started_schemas_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    monkeypatch.setattr(in_time_module, "_idle", [])
    with pytest.raises(SchemaTooComplex, match="can't start new thread"):
        schema_of({"type": "integer"})


@pytest.mark.parametrize(
    ("pattern", "slow"),
    [
        ("a?" * 35 + "a" * 35, True), ("(a|aa)" * 30 + "b", True), ("a*a*a*a*b", True), ("(a+)+b", True),
        ("(ab){2}", True), (r"[)]*a+", False), ("(" * 2000 + ")" * 2000, True), ("(", True), (r"(a)(?(1)b|c)", True),
        ("(?=a*a*)a*a*", True), (r"^\d{4}-\d\d?(T\d+)?$", False), ("|".join(f"state{n}" for n in range(500)), False),
        (r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", False),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_patterns_that_backtrack_too_long_are_known(pattern: str, slow: bool) -> None:
    assert is_slow(pattern) is slow


def test_samples_are_short_and_need_no_backtracking() -> None:
    assert samples("((((a{999}){999}){999}){999})") == []
    assert samples("(a|aa)" * 40 + "b")


def test_the_heaviest_part_is_found_without_unfolding_a_document() -> None:
    assert heaviest(DOUBLED) == ("properties",)
    assert heaviest({"properties": {"a": DOUBLED, "b": {}}}) == ("properties", "a", "properties")
    assert heaviest({"items": {"enum": ["b" * 99]}, "type": "array"}) == ("items", "enum")


def busy(seconds: float) -> None:
    """Takes CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


@pytest.mark.parametrize("failure", [RecursionError("deep"), KeyError("x")])
def test_what_fails_in_the_thread_fails_here(failure: Exception) -> None:
    def work() -> None:
        raise failure

    with pytest.raises(type(failure)):
        in_time(work, 1.0)


def test_quick_works_share_a_thread_and_slow_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> int:
        while time.thread_time() < 0.2:
            sum(range(1000))
        return threading.get_ident()

    monkeypatch.setattr(in_time_module, "_idle", [])
    quick = {in_time(threading.get_ident, 1.0) for _ in range(5)}
    assert quick == {in_time(busy, 5.0)}
    assert in_time(time.thread_time, 1.0) < 0.2, "a new one"


def test_collections_are_no_part_of_what_work_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a full collection depends on all memory of the process."""
    monkeypatch.setattr(in_time_module, "BLOCKED_SECONDS", 60.0)
    heap = [[n] for n in range(300_000)]

    def collects() -> float:
        while time.thread_time() < 0.3:
            gc.collect()
        return time.thread_time()

    monkeypatch.setattr(in_time_module, "_idle", [])
    assert in_time(collects, 0.2) > 0.2
    assert len(heap) == 300_000


def test_a_forked_process_begins_without_threads() -> None:
    code = """
import os
from trimode.policy.watchdog import in_time
in_time(os.getpid, 1.0)
child = os.fork()
if not child:
    os._exit(in_time(lambda: 7, 1.0))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["7"]


def test_deep_recursion_of_the_grammar_engine_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reference and each required key is a level of llguidance's stack; time is not tested here."""
    monkeypatch.setattr(grammar, "COMPILE_SECONDS", 10.0)
    chain: Json = {f"d{n}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}}]} for n in range(900)}
    check(schema_of({"$ref": "#/$defs/d0", "$defs": {**chain, "d900": {"type": "null"}}}))
    check(schema_of({"type": "object", "required": [f"p{n}" for n in range(2000)]}))


SHAPED: Final[dict[str, list[Json]]] = {
    "type": ["integer", ["null", "object"], "frob", [], ["null", "null"], 1], "enum": [[1], [1, "1"], [1, 1], [], {}],
    "required": [["a"], ["a", "a"], [], [1], "a"], "properties": [{}, {"a": {}}, {"a": 1}, []],
    "patternProperties": [{"^a": {}}, {"(": {}}, {"a": 2}], "additionalProperties": [True, {}, 1, []],
    "items": [{}, 3], "not": [{}, None], "anyOf": [[{}], [], [1], {}], "$ref": ["#", "#/a/b", "#a b", "#/%", 1],
    "pattern": ["^a", "(", 1], "format": ["date", 1], "minLength": [0, 2, -1, 1.5, True, "1"],
    "minimum": [1, -2.5, True],
    "multipleOf": [0.5, 0, -1, True], "uniqueItems": [True, 1], "title": ["a", 1], "if": [{}, 5],
    "dependencies": [{"a": ["b"]}, {"a": {}}, {"a": []}, {"a": ["b", "b"]}, {"a": 1}, []],
    "dependentRequired": [{"a": ["b"]}, {"a": [1]}], "contains": [{}, []], "propertyNames": [{}, "a"],
    "$schema": ["http://json-schema.org/draft-07/schema#", "a b", 1], "id": ["a b", 1], "examples": [[1], {}],
    "readOnly": [True, "a"], "$comment": ["a", 1], "prefixItems": [[{}], [], {}], "additionalItems": [{}, True, [], 1],
    "minContains": [1, -1], "unevaluatedItems": [{}, True, 1], "contentEncoding": ["a", 1], "x-any": [{"a": ["b"]}],
}  # fmt: skip
DRAFT_NAMES: Final = ("draft-04/schema#", "draft-06/schema#", "draft-07/schema#")


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in SHAPED.items() for value in values])
def test_what_looks_right_at_a_glance_is_right_in_every_draft(key: str, value: Json) -> None:
    if not fits_every_draft({key: value}):
        return
    for name in (*(f"http://json-schema.org/{draft}" for draft in DRAFT_NAMES), *NEWER_DRAFTS):
        kind = draft_of({"$schema": name})
        kind.check_schema({key: value})


def test_common_keywords_are_right_at_a_glance() -> None:
    assert fits_every_draft({key: values[0] for key, values in SHAPED.items()})


def test_of_other_names_no_meta_schema_says_anything() -> None:
    registry: Any = import_module("jsonschema_specifications").REGISTRY
    drafts = [resource.contents for name, resource in registry.items() if "draft-03" not in name]
    names = {name for draft in drafts if isinstance(draft, dict) for name in draft.get("properties", ())}
    assert "unevaluatedItems" in names
    assert all(name in LEFT_TO_META_SCHEMAS or not fits_every_draft({name: object()}) for name in names)
    assert not any(fits_every_draft({name: {}}) for name in LEFT_TO_META_SCHEMAS)


NEWER_DRAFTS: Final = ("https://json-schema.org/draft/2019-09/schema", "https://json-schema.org/draft/2020-12/schema")
KEYWORDS: Final = (
    "$ref", "$defs", "$schema", "$id", "$anchor", "$dynamicRef", "type", "enum", "const", "properties", "required",
    "items", "prefixItems", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependencies", "dependentRequired", "dependentSchemas", "oneOf", "anyOf", "allOf", "not", "if",
    "then", "else", "format", "pattern", "minLength", "maxLength", "minimum", "exclusiveMaximum", "multipleOf",
    "minItems", "uniqueItems", "contains", "x-guidance", "default", "a",
)  # fmt: skip
ODD: Final = st.sampled_from(
    [None, True, False, 0, -1, 2, 1.5, math.nan, math.inf, 10**30, "", "#", "#/", "#/a/b", "#/$defs/a", "#/%zz", "#/-1",
     "a\0b", "\ud800", "(", "^a", "integer", "object", "array", "date", "https://example.com/x", (1,), b"x", ["a"],
     ["object", "null"], ["a", "a"], 1e400, "http://json-schema.org/draft-07/schema#"]
)  # fmt: skip
DOCUMENTS: Final = st.recursive(
    ODD,
    lambda inner: (
        st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4)
        | st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {}, optional={"type": st.just("object"), "properties": st.dictionaries(st.just("a"), inner)}
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@example(document={"$ref": "#/$ref"})
@example(document={"$ref": "#/required/0", "required": ["a"]})
@example(document={"oneOf": [False], "items": {"$ref": "#/$defs/D"}, "$defs": {"D": {}}})
@example(document={"dependentRequired": {"not": ["a"], "enum": ["b"]}, "x-other": {"required": 5, "format": "date"}})
@example(document={"$ref": "#/x-other", "x-other": {"required": 5}})
@example(document={"$ref": "#/", "const": None, "dependencies": {}})
@example(document={"x-guidance": 5})
@example(document={"x-guidance": {"no_such_option": 1}})
@example(document={"properties": {"properties": {"$ref": "#/properties"}}})
@given(document=st.dictionaries(st.sampled_from(KEYWORDS), DOCUMENTS, max_size=5))
def test_whatever_is_handed_in_is_taken_or_refused_in_our_words(document: Json) -> None:
    start = time.perf_counter()
    with suppress(SchemaError):
        check(schema_of(document))
    assert time.perf_counter() - start < SECONDS


REWRITTEN: Final[list[dict[str, Json]]] = [
    {"type": ["string", "integer", "null"], "not": {"enum": ["", "a", "ab", 7, None]}},
    {"type": "integer", "minimum": 1, "maximum": 9, "not": {"enum": [2, 5]}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
     "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
     "dependentRequired": {"a": ["b"]}},
    {"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "n": {"type": "integer"}}, "required": ["k"],
     "if": {"properties": {"k": {"const": "a"}}}, "then": {"required": ["n"]}, "else": {"properties": {"n": False}}},
    {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "additionalProperties": False,
     "maxProperties": 2},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
]  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [
        10**5000, [10**5000], [DEEP_TUPLE], [True], [{"function": 10**5000}], {"x-regex": 10**5000}, {"x-choice": 5},
        {"x-choice": [10**5000]}, {"x-choice": DEEP_TUPLE}, {"x-choice": [["a"]]}, {"x-choice": "ab"}, {"x-lark": [1]},
        [{"name": "a", "parameters": {"$schema": "http://["}}], [{"name": "a", "parameters": {"type": 10**5000}}],
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_schema_at_all_is_refused_in_our_words(target: Json) -> None:
    with pytest.raises(SchemaError):
        schema_of(target)


@pytest.mark.parametrize("document", REWRITTEN, ids=lambda document: str(document)[:60])
def test_grammars_of_rewritten_schemas_write_valid_text(reference: Engine, document: dict[str, Json]) -> None:
    schema, ended = schema_of(document), 0
    assert reference.grammars.compile(schema).rewritten
    with pytest.raises(UnsupportedKeyword):
        reference.grammars.compile(schema, rewrites=False)
    end = reference.tokens.model.config.eos_token_ids[0]
    for seed in range(12):
        matcher, rng, ids = reference.grammars.matcher(schema), random.Random(seed), list[int]()
        while len(ids) < 60:
            choices = allowed(matcher)
            if end in choices and (len(choices) == 1 or rng.random() < 0.4):
                ended += 1
                schema.parse(reference.tokenizer.decode(ids))
                break
            choices = [token for token in choices if token != end]
            closing = [token for token in choices if reference.tokenizer.token(token) in ('"', "}", '"}', ":", ",")]
            ids.append(rng.choice(closing if closing and rng.random() < 0.6 else choices))
            matcher.advance(ids[-1:])
    assert ended


@pytest.mark.parametrize(
    ("value", "document", "text"),
    [
        ({"b": 1, "a": 2}, {"properties": {"a": {}, "b": {}}}, '{"a":2,"b":1}'),
        ({"z": 1, "b": 2, "a": 3}, {"properties": {"a": {}}, "required": ["b"]}, '{"a":3,"b":2,"z":1}'),
        (
            [{"b": 1, "a": 2}],
            {"items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"properties": {"a": {}}}}},
            '[{"a":2,"b":1}]',
        ),
        ({"b": 1, "a": 2}, {"anyOf": [{"required": ["c"]}, {"properties": {"a": {}}}]}, '{"a":2,"b":1}'),
        ([1, {"b": 1, "a": 2}], {"prefixItems": [{}, {"properties": {"a": {}}}]}, '[1,{"a":2,"b":1}]'),
        ("ä", {}, '"ä"'),
    ],
)
def test_data_is_written_in_the_order_of_the_schema(value: Json, document: Json, text: str) -> None:
    assert next(texts_of(value, document)) == text


@pytest.mark.parametrize(("name", "meant"), [("dict", "'object'"), ("float", "'number'"), ("any", "no type at all")])
def test_types_of_other_dialects_are_refused_with_ours_named(name: str, meant: str) -> None:
    tool = {"name": "x", "parameters": {"type": "object", "properties": {"a": {"type": name}}}}
    error = refused([tool])
    assert (type(error), error.pointer) == (MalformedSchema, "/parameters/properties/a/type")
    assert error.hint.endswith(f"write {meant}")
