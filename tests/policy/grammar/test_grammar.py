"""The mask protocol on llguidance: what masks allow is valid, and end bits are set where the text is complete."""

from __future__ import annotations

import random
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from threading import Event, Thread
from typing import Any, Literal, cast
from uuid import UUID

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from loaded import SHORT, allowed
from pydantic import BaseModel

from trimode.engine.token_mask import allows
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import GrammarRuntimeError, SchemaTooComplex, UnsupportedKeyword
from trimode.policy.grammar import compiler as grammar
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.json_schema.tighten import tightened
from trimode.policy.schema.targets import schema_of

LENGTH = 100


class Inner(BaseModel):
    kind: Literal["a", "b"]
    count: int | None = None


class Node(BaseModel):
    value: int
    children: list[Node] = []


def call(city: Literal["Bern", "Rom"], nights: int = 1) -> None: ...


TARGETS: list[Any] = [
    SHORT, Inner, Node, datetime, date, time, timedelta, UUID, IPv4Address, bool, None, Decimal, Literal["x", 3],
    list[int], tuple[int, bool], int, float, timedelta | None, [call], [call, {"name": "stop", "parameters": {}}],
    {"type": "number", "multipleOf": 0.1}, {"type": "integer", "multipleOf": 7}, {"type": "string", "maxLength": 3},
    {"type": "string", "pattern": "^a+b$"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
    {"enum": [1.0, "a", None, {"a": [1]}]}, {"anyOf": [{"type": "integer"}, {"const": "x"}]}, {"format": "ipv6"},
    {"type": ["string", "null"], "format": "date-time"}, {"type": "string", "format": "date", "pattern": "^2"},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
    {"properties": {"const": {"type": "string", "format": "time"}}, "required": ["const"], "type": "object",
     "additionalProperties": False},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
               {"properties": {"a": {"maximum": 9}}}]},
    {"x-guidance": {"whitespace_flexible": True, "lenient": True}, "type": "array", "items": {"type": "boolean"}},
]  # fmt: skip


def matcher_of(engine: Engine, target: Any) -> Matcher:
    return engine.grammars.matcher(schema_of(target))


def walk(engine: Engine, matcher: Matcher, seed: int, length: int = LENGTH) -> tuple[list[int], bool]:
    """Random allowed ids, closing ones more often than not, and whether they came to an end."""
    end = engine.tokens.model.config.eos_token_ids[0]
    rng, ids = random.Random(seed), list[int]()
    while len(ids) < length:
        choices = allowed(matcher)
        assert choices, "a mask that allows nothing"
        if end in choices and (len(choices) == 1 or rng.random() < 0.5):
            return ids, True
        choices = [token for token in choices if token != end]
        closing = [token for token in choices if engine.tokenizer.token(token) in ('"', "}", "]", '"}', "]}")]
        ids.append(rng.choice(closing if closing and rng.random() < 0.5 else choices))
        matcher.advance(ids[-1:])
    return ids, False


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: re.sub(r" at 0x\w+", "", str(target))[:60])
def test_random_walks_end_in_valid_text_or_go_on(reference: Engine, target: Any) -> None:
    schema, ended = schema_of(target), 0
    for seed in range(12):
        ids, complete = walk(reference, matcher_of(reference, target), seed)
        if complete:
            ended += 1
            text = reference.tokenizer.decode(ids)
            schema.parse(text)
            assert not any(space in text for space in (": ", "\n", "{ ")), "canonical text has no layout"
    assert ended, "no walk came to an end"


@pytest.mark.parametrize(
    ("target", "complete", "open_"),
    [
        (SHORT, ['{"low":7,"unit":"m"}'], ["", "{", '{"low":7', '{"low":7,"unit":"m"']),
        ({"type": "integer"}, ["7", "-70"], ["", "-"]),
        (bool, ["true"], ["", "t"]),
        ({"enum": ["a", "ab"]}, ['"a"', '"ab"'], ['"a']),
        (list[int], ["[]", "[1,2]"], ["[", "[1", "[1,"]),
    ],
)
def test_end_bit_exactly_where_the_text_is_complete(
    reference: Engine, target: Any, complete: list[str], open_: list[str]
) -> None:
    end = reference.tokens.model.config.eos_token_ids[0]
    for text in (*complete, *open_):
        matcher = matcher_of(reference, target)
        matcher.advance(reference.tokenizer.encode(text))
        assert allows(matcher.mask(), end) == (text in complete), text


def test_a_closed_text_allows_the_end_alone(reference: Engine) -> None:
    matcher = matcher_of(reference, SHORT)
    matcher.advance(reference.tokenizer.encode('{"low":7,"unit":"m"}'))
    assert allowed(matcher) == [reference.tokens.model.config.eos_token_ids[0]]


def test_forks_are_independent_and_start_with_the_same_mask(reference: Engine) -> None:
    matcher = matcher_of(reference, SHORT)
    matcher.advance(reference.tokenizer.encode('{"low":'))
    before = matcher.mask().clone()
    twin, other = matcher.fork(), matcher.fork()
    assert torch.equal(twin.mask(), before)
    twin.advance(reference.tokenizer.encode('7,"unit":"'))
    assert not torch.equal(twin.mask(), before)
    assert torch.equal(matcher.mask(), before)
    assert torch.equal(other.mask(), before)
    other.advance(reference.tokenizer.encode('7,"unit":"'))
    assert torch.equal(other.mask(), twin.mask())


def test_matchers_of_one_schema_are_independent(reference: Engine) -> None:
    first, second = matcher_of(reference, SHORT), matcher_of(reference, SHORT)
    start = second.mask().clone()
    first.advance(reference.tokenizer.encode('{"low"'))
    assert torch.equal(second.mask(), start)


class Watched:
    """A compiled matcher whose mask blocks until `go_on` is set. `asked`: methods that were called meanwhile."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.asked = engine, list[str]()
        self.busy, self.go_on = Event(), Event()

    def __getattr__(self, name: str) -> Any:
        if self.busy.is_set():
            self.asked.append(name)
            raise RuntimeError("Already mutably borrowed")  # as llguidance would
        return getattr(self.engine, name)

    def unsafe_compute_mask_ptr(self, pointer: int, size: int) -> None:
        self.busy.set()
        self.go_on.wait(20)
        self.engine.unsafe_compute_mask_ptr(pointer, size)
        self.busy.clear()


class Slow(grammar.GrammarCompiler):
    """The first matcher that it compiles is watched."""

    first: Watched | None = None
    compiled: Event

    def compile(self, schema: Any, rewrites: bool = True) -> grammar.Compiled:
        made = super().compile(schema, rewrites)
        if self.first is None:
            self.first = Watched(made.start.raw.engine)
            made.start.raw.engine = cast(LLMatcher, self.first)
            self.compiled.set()
        return made


def test_no_two_threads_ask_what_calls_of_a_schema_copy(reference: Engine) -> None:
    """A second call once came while the first was still computing the first mask of a new schema."""
    config = reference.tokens.model.config
    grammars = Slow(reference.tokenizer, config.vocab_size, config.eos_token_ids)
    grammars.compiled, schema, found = Event(), schema_of(SHORT), list[Matcher]()
    other = Thread(target=lambda: found.append(grammars.matcher(schema)))
    other.start()
    assert grammars.compiled.wait(20)
    watched = grammars.first
    assert watched is not None
    try:
        assert watched.busy.wait(20)
        found.append(grammars.matcher(schema))
    finally:
        watched.go_on.set()
        other.join()
    found.append(grammars.matcher(schema))
    assert watched.asked == []
    assert [torch.equal(one.mask(), matcher_of(reference, SHORT).mask()) for one in found] == [True] * 3


def test_advancing_past_nothing_changes_nothing(reference: Engine) -> None:
    matcher = matcher_of(reference, SHORT)
    start = matcher.mask().clone()
    matcher.advance([])
    assert torch.equal(matcher.mask(), start)


def test_a_token_outside_the_mask_is_an_error(reference: Engine) -> None:
    matcher = matcher_of(reference, SHORT)
    with pytest.raises(GrammarRuntimeError, match="refused token"):
        matcher.advance(reference.tokenizer.encode("no"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(target=st.sampled_from(TARGETS), seed=st.integers(0, 10**6), length=st.integers(1, 20))
def test_mask_depends_on_the_tokens_alone(reference: Engine, target: Any, seed: int, length: int) -> None:
    """Matchers agree that were asked at every token, advanced at once, and forked half way."""
    asked, at_once, half = (matcher_of(reference, target) for _ in range(3))
    ids, _ = walk(reference, asked, seed, length)
    at_once.advance(ids)
    half.advance(ids[: len(ids) // 2])
    forked = half.fork()
    forked.advance(ids[len(ids) // 2 :])
    assert torch.equal(asked.mask(), at_once.mask())
    assert torch.equal(asked.mask(), forked.mask())


def test_refused_schema_never_becomes_a_matcher(reference: Engine) -> None:
    with pytest.raises(UnsupportedKeyword) as caught:
        matcher_of(reference, {"properties": {"a": {"type": "array", "uniqueItems": True}}})
    assert caught.value.pointer == "/properties/a/uniqueItems"


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0001-01-01", "2023-12-31"],
         ["2023-02-29", "1900-02-29", "2023-04-31", "0000-01-01", "2023-13-01"]),
        ("time", ["23:59:59Z", "00:00:00.5+23:59"], ["23:59:60Z", "24:00:00Z", "10:00:00+24:00"]),
        ("date-time", ["2024-02-29t10:00:00z"], ["2023-02-29T10:00:00Z", "2024-01-01T10:00:60Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "PT999999S", "P2W"], ["PT1234567S", "P", "PT"]),
    ],
)  # fmt: skip
def test_formats_hold_what_later_readers_accept(
    reference: Engine, format: str, good: list[str], bad: list[str]
) -> None:
    for text in (*good, *bad):
        matcher, fits = matcher_of(reference, {"type": "string", "format": format}), True
        for token in reference.tokenizer.encode(f'"{text}"'):
            fits = fits and allows(matcher.mask(), token)
            if fits:
                matcher.advance([token])
        assert fits == (text in good), text


def test_tightening_leaves_values_and_names_alone() -> None:
    plain = {"const": {"format": "date"}, "properties": {"format": {"enum": [{"format": "time"}]}}}
    assert tightened(plain) == plain
    inside = tightened({"properties": {"const": {"format": "date", "allOf": [{"minLength": 1}]}}})
    assert len(inside["properties"]["const"]["allOf"]) == 2


@pytest.mark.parametrize("pattern", ["^([a-z]+-[0-9]+ ){900}$", "^x{9000}y$"])
def test_the_search_for_a_complete_text_is_given_up_in_time(
    reference: Engine, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Also in slow steps, which try all ends of a long sample."""
    monkeypatch.setattr(grammar, "COMPLETION_SECONDS", 0.02)
    with pytest.raises(SchemaTooComplex, match=r"no complete text was found in 0.02 s"):
        reference.grammars.compile(schema_of({"type": "array", "items": {"pattern": pattern}, "minItems": 4000}))
