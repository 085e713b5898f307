"""Texts that a grammar accepts against validators: bounds, constants, quotes, escapes and large numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pytest
from loaded import allowed
from pydantic import Field

from trimode.engine.result import Mode
from trimode.integrations.cli.schema_check import Checker
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaRefused, SchemaViolation
from trimode.policy.schema.targets import Schema, schema_of

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from check_texts import Check

MODES: Final = ("ar", "diffusion", "linear_spec", "quadratic_spec")
FILE_NAME: Final = r'^[^\\/:*?"<>|]+$'
ID: Final = {"type": "object", "properties": {"id": {"type": "integer"}}}
KINDS: Final[list[tuple[Any, list[str], list[str]]]] = [
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.25", "0.001"],
     ["0", "0.0", "-0", "0." + "0" * 400 + "1", "0.50000000000000001", "1.0"]),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, ["1.5", "1.01"],
     ["1", "1.0", "1.00000000000000000001"]),
    ({"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 0}, ["-0.5"],
     ["-1", "-0", "0", "-0.99999999999999999"]),
    ({"type": "number", "exclusiveMaximum": 100}, ["99.5", "-3"], ["100", "99.9999999999999999"]),
    ({"type": "number", "exclusiveMinimum": 100, "exclusiveMaximum": 101.46}, ["101"], ["100", "100.0", "101.46"]),
    ({"type": "number", "minimum": 9435280147409.621}, ["9435280147410"], ["9435280147409.620"]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "maximum": 1.9}, ["1"], ["0", "2"]),
    ({"type": "integer", "minimum": 2**53 + 1}, [str(2**53 + 2)], [str(2**53)]),
    ({"type": "integer", "minimum": -(2**63)}, ["-5", "5"], []),
    ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, ["0", str(2**60)], ["-1", str(2**64)]),
    ({"type": "number", "minimum": -(2**70)}, ["-0.5"], [str(-(2**70) - 1)]),
    ({"type": "number", "if": {"maximum": 1e30}, "then": {"minimum": 5}}, ["5"], ["4", "9223372036854774784e2"]),
    ({"type": "number", "multipleOf": 3}, ["9"], ["9007199254740993.0"]),
    ({"enum": [0.5, 0.3], "multipleOf": 0.25}, ["0.5"], ["0.3"]),
    (Annotated[float, Field(gt=0, le=0.5)], ["0.5"], ["0", "0.0"]),
    (dict[Annotated[str, Field(pattern="^[a-z]{1,2}$")], int], ['{"ab":1}'],
     ['{"A":1}', '{"abc":1}', '{"a\\n":1}']),
    ({"type": "string", "pattern": '^[^"]*$'}, ['"a"', '"\\\\"'], ['"\\""', '"a\\"b"', '"\\u0022"']),
    ({"type": "string", "pattern": FILE_NAME}, ['"a.txt"'], ['"\\""', '"\\\\"', '"a\\\\b"']),
    ({"type": "string", "pattern": r"^[\x00-\x21]$"}, ['"!"', '"\\n"'], ['"\\""', '"\\\\"']),
    ({"patternProperties": {'^[^"]$': {"type": "null"}}, "additionalProperties": False, "type": "object"},
     ['{"a":null}'], ['{"\\"":null}']),
    ({"type": "string", "pattern": r"^[\n -]$"}, ['" "', '"-"'], ['"},{"', '"!"', '"&"']),
    ({"const": 2**62}, [str(2**62)], [str(2**62 + 1)]),
    ({"const": [1.2345678901234568e18]}, ["[1234567890123456768]"], ["[1234567890123456800]"]),
    ({"const": "a\0b"}, ['"a\\u0000b"'], ['"ab"']),
    ({"const": "a\x7fb"}, ['"a\\u007fb"'], ['"ab"']),
    ({"type": "string", "pattern": r"^[\x01\x7fab]c$"}, ['"ac"'], ['"a"', '"c"', '"\\u0001c"', '"\x7fc"']),
    ({"type": "number"}, ["1e30", "-1.5E-7", "0"], ["1e999", "1e400", "9" * 400, "123e307"]),
    ({"type": "integer"}, [str(2**64)], ["9" * 400, "9" * 5000]),
    ({}, ["1e30", "[1e300]"], ["1e999", "[1e999]", '{"a":1e999}', "-1e309"]),
    ({"type": "array"}, ["[1e300]", '[{"a":1}]'], ["[1e999]", '[{"a":1,"a":2}]', '[{"a":1,"\\u0061":2}]']),
    ({"patternProperties": {"^[a]$": {"type": "null"}}, "type": "object"}, ['{"a\\n":null}'], ['{"a\\n":1}']),
    ({"patternProperties": {r"^\w$": {"type": "null"}}, "type": "object"}, ['{"a":null}', '{"-":1}'],
     ['{"a":1}', '{"\u06f3":1}', '{"é":1}']),
    (ID, ['{"id":1}', '{"id":1,"x":2}'], ['{"\\u0069d":"x"}', '{"id":1,"\\u0069d":2}', '{"i\\u0064":"x"}']),
    ({**ID, "not": {"required": ["b"]}}, ['{"id":1}'], ['{"b":1}', '{"\\u0062":1}']),
]  # fmt: skip
"""A schema, texts that its grammar accepts, texts that it refuses."""
REFUSED: Final[list[tuple[Any, str]]] = [
    ({"const": 1234567890123456789}, "/const"),
    ({"enum": ["a", 1e23]}, "/enum"),
    ({"const": {"a": [2**53 + 1]}}, "/const"),
    ({"const": -(2**63)}, "/const"),
    (Literal[1234567890123456789], "/const"),
    ({"type": "integer", "minimum": 1e30}, "/minimum"),
    ({"type": "integer", "not": {"maximum": 1e30}}, "/not"),
    ({"type": "integer", "not": {"maximum": 2**70}}, "/not"),
    ({"type": "object", "properties": {"a": {"const": "\1"}}}, "/properties/a/const"),
    ({"type": "string", "pattern": r"^a\v$"}, "/pattern"),
    ({"type": "string", "pattern": "^a\x7f$"}, "/pattern"),
    ({"type": "string", "pattern": r"^[\v]a$"}, "/pattern"),
    ({"type": "string", "pattern": r"^(?:b|\u001fa)$"}, "/pattern"),
    ({"type": "object", "patternProperties": {r"^\x01a$": {"type": "null"}}}, "/patternProperties"),
    ({"patternProperties": {"^[^a]*$": {"type": "null"}}, "properties": {"c\1": {"const": 1}}}, "/patternProperties"),
    (
        {"allOf": [{"patternProperties": {"^[^a]*$": {"type": "null"}}}, {"required": ["c\1"]}]},
        "/allOf/0/patternProperties",
    ),
    (
        {"patternProperties": {r"^\w$": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
        "/patternProperties",
    ),
    ({"type": "object", "propertyNames": {"pattern": r"^a\x0b$"}}, "/propertyNames/pattern"),
    ({"type": "integer", "allOf": [{"multipleOf": 65536}, {"multipleOf": 65537}]}, "/allOf/0/multipleOf"),
]


@pytest.mark.parametrize(("target", "taken", "refused"), KINDS, ids=lambda one: str(one)[:60])
def test_texts_of_a_kind(reference: Engine, target: Any, taken: list[str], refused: list[str]) -> None:
    schema = schema_of(target)
    raw = reference.grammars.compile(schema).start.raw
    for text in (*taken, *refused):
        assert raw.fork().completes(raw.vocabulary.tokens_of(text.encode())) == (text in taken), text
    for text in taken:
        schema.parse(text)


@pytest.mark.parametrize(("target", "place"), REFUSED, ids=lambda one: str(one)[:60])
def test_what_cannot_be_written_is_refused_by_name(reference: Engine, target: Any, place: str) -> None:
    with pytest.raises(SchemaRefused) as caught:
        reference.grammars.compile(schema_of(target))
    assert caught.value.pointer == place


def test_masks_leave_out_the_digit_that_would_make_a_number_infinite(reference: Engine) -> None:
    matcher = reference.grammars.matcher(schema_of({"type": "number"}))
    vocabulary = matcher.raw.vocabulary
    matcher.advance(vocabulary.tokens_of(b"1e30"))
    texts = {vocabulary.text_of([token]) for token in allowed(matcher)}
    assert b"7" in texts
    assert b"9" not in texts


def test_an_infinite_number_is_no_json() -> None:
    schema = schema_of({"multipleOf": 2})
    with pytest.raises(SchemaViolation, match="infinite"):
        schema.parse("1e999")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_values_of_every_kind_are_valid_in_every_mode(reference: Engine, mode: Mode, temperature: float) -> None:
    messages = [{"role": "user", "content": "Say something."}]
    for target, *_ in KINDS:
        result = reference.generate(
            messages=messages, schema=target, mode=mode, temperature=temperature, max_tokens=32, seed=7
        )
        schema_of(target).parse(result.text)


def test_a_sample_of_texts_at_random(reference: Engine) -> None:
    end = reference.tokens.model.config.eos_token_ids[0]
    check = Check(Checker(reference.grammars, Checker.load(None, "strict", True).walker), end, seed=1)
    while check.texts < 1200:
        check.schema(30)
    assert check.wrong == []
    assert check.taken > 50
    assert isinstance(schema_of({}), Schema)
