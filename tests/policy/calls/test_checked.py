"""Tier `checked`: what leaves the grammar, that it is checked afterwards, and how often it is tried."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.retries import RETRY_TEMPERATURE
from trimode.policy.grammar.relax import relaxed
from trimode.policy.json_schema.document import Document
from trimode.policy.replay.decode_again import replay
from trimode.policy.schema.targets import schema_of
from trimode.testing import FakeEngine, in_turn

UNIQUE: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 1},
    "minItems": 2,
    "maxItems": 2,
    "uniqueItems": True,
}
"""Half of what its grammar allows breaks it."""
NOTE = "'uniqueItems' at /uniqueItems is not in the grammar, and checked in the finished output"


@tm.step("json", schema=UNIQUE, guarantee="checked", retries=2, max_tokens=24)
def pair(text: str) -> list[int]:
    """{text}"""
    ...


def test_strict_is_the_default_and_names_the_option() -> None:
    both: list[dict[str, Any]] = [{}, {"guarantee": "grammar"}]
    for words in both:
        with pytest.raises(tm.UnsupportedKeyword, match="guarantee='checked'") as caught:
            tm.step("json", schema=UNIQUE, **words)(lambda: "x")
        assert (caught.value.pointer, caught.value.checkable) == ("/uniqueItems", True)


def test_an_attempt_that_holds_says_how() -> None:
    fake = FakeEngine({"pair": [0, 1]})
    with tm.session(fake, policy=tm.Policy()):
        result = pair.result("x")
    assert (result.value, result.valid, result.guarantee, result.seed) == ([0, 1], True, "checked", 0)
    assert (result.notes, result.failed) == ((NOTE,), ())
    assert len(fake.calls) == 1


def test_the_next_attempt_has_another_seed_and_temperature() -> None:
    fake = FakeEngine({"pair": in_turn([0, 0], [1, 1], [1, 0])})
    with tm.session(fake, policy=tm.Policy()) as session:
        result = pair.options(seed=2**64 - 1).result("x")
    assert result.value == [1, 0]
    assert [(one.seed, one.temperature, one.text) for one in result.failed] == [
        (2**64 - 1, 0.0, "[0,0]"),
        (0, RETRY_TEMPERATURE, "[1,1]"),
    ]
    assert all("non-unique" in one.violation for one in result.failed)
    assert (result.seed, result.plan.settings.temperature) == (1, RETRY_TEMPERATURE)
    assert result.notes[0].startswith(
        "attempt 2 of at most 3: the one before broke the schema; seed=0 and temperature="
    )
    assert result.notes[1:] == ("attempt 3 of at most 3: the one before broke the schema; seed=1", NOTE)
    assert session.spent.tokens == len(result.token_ids) + sum(one.stats.output_tokens for one in result.failed)


@pytest.mark.parametrize("retries", [0, 2])
def test_when_none_holds(retries: int) -> None:
    fake = FakeEngine({"pair": [1, 1]})
    with tm.session(fake, policy=tm.Policy()) as session, pytest.raises(tm.CheckFailed) as caught:
        pair.options(retries=retries)("x")
    error = caught.value
    assert (error.text, len(error.attempts), len(fake.calls)) == ("[1,1]", retries + 1, retries + 1)
    assert "non-unique" in error.violation
    assert "raise retries" in str(error)
    assert session.results == []
    assert session.spent.tokens == sum(attempt.stats.output_tokens for attempt in error.attempts)


def test_tasks_and_plain_calls_try_again_too() -> None:
    def engine() -> FakeEngine:
        return FakeEngine({name: in_turn([0, 0], [0, 1]) for name in ("generate", "agenerate")})

    assert engine().generate("x", schema=UNIQUE, guarantee="checked").value == [0, 1]
    assert asyncio.run(engine().agenerate("x", schema=UNIQUE, guarantee="checked")).value == [0, 1]
    with pytest.raises(tm.UnsupportedKeyword):
        engine().generate("x", schema=UNIQUE)


def test_a_stream_is_one_attempt() -> None:
    with tm.session(FakeEngine({"pair": in_turn([0, 1], [0, 0])}), policy=tm.Policy()):
        assert list(pair.stream("x"))[-1].result is not None
        with pytest.raises(tm.CheckFailed, match="one attempt ended"):
            list(pair.stream("x"))


def test_the_budget_counts_and_ends_attempts() -> None:
    fake = FakeEngine({"pair": [1, 1]})
    with (
        tm.session(fake, policy=tm.Policy(), budget=tm.Budget(passes=1)) as session,
        pytest.raises(tm.BudgetExceeded, match="passes"),
    ):
        pair("x")
    assert len(fake.calls) == 1
    assert session.spent.passes > 1


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "diffusion"])
def test_attempts_are_recorded_verified_and_replayed(
    reference: Engine, spans: InMemorySpanExporter, tmp_path: Path, mode: Mode
) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        try:
            result = pair.options(mode=mode, retries=9).result("two different numbers")
            assert result.value in ([0, 1], [1, 0])
            tries = [*(one.audit_id for one in result.failed), result.audit_id]
        except tm.CheckFailed as error:
            tries = [attempt.audit_id for attempt in error.attempts]
    assert verify(path) == []
    found = records(read_audit(path))
    assert [record.call for record in found] == tries
    assert [record.sampling.seed for record in found] == list(range(len(found)))
    for record in found:
        assert record.guarantee == "checked"
        assert NOTE in record.notes
        assert record.schema_valid is (record.error is None)
        assert replay(record, reference).outcome == "same"
    chats = [span for span in spans.get_finished_spans() if span.name.startswith("chat")]
    for span, record in zip(chats, found, strict=False):
        assert (span.attributes or {})["trimode.schema.guarantee"] == "checked"
        assert (span.status.status_code is StatusCode.ERROR) == (record.error is not None)


def test_what_the_grammar_holds_is_not_touched(reference: Engine) -> None:
    schema = {key: value for key, value in UNIQUE.items() if key != "uniqueItems"}
    one = reference.generate("x", schema=schema, guarantee="checked")
    other = reference.generate("x", schema=schema)
    assert (one.guarantee, other.guarantee) == ("grammar", "grammar")
    assert (one.token_ids, one.notes) == (other.token_ids, other.notes)
    assert reference.generate("x", max_tokens=1).guarantee is None
    assert relaxed(schema_of(schema)).dropped == ()


@pytest.mark.parametrize(
    ("schema", "dropped"),
    [
        ({"type": "array", "items": {"not": {"pattern": "x"}}}, ["/items/not"]),
        ({"oneOf": [{"type": "array", "uniqueItems": True}, {"pattern": "(a)(?=b)", "type": "string"}]},
         ["/oneOf", "/oneOf/0/uniqueItems", "/oneOf/1/pattern"]),
        ({"type": "array", "contains": {"const": 1}, "minContains": 2}, ["/contains"]),
        ({"if": {"pattern": "x"}, "then": {"maxLength": 3}, "type": "string"}, ["/if"]),
        ({"properties": {"not": {"type": "array", "uniqueItems": True}}}, ["/properties/not/uniqueItems"]),
        ({"properties": {"a/b~%": {"type": "array", "uniqueItems": True}}}, ["/properties/a~1b~0%/uniqueItems"]),
        ({"type": "string", "format": "json-pointer"}, ["/format"]),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, ["/minProperties"]),
    ],
)  # fmt: skip
def test_what_is_left_out(schema: dict[str, Any], dropped: list[str]) -> None:
    found = relaxed(schema_of(schema))
    assert [one.pointer for one in found.dropped] == dropped
    for one in found.dropped:
        whole, _, keyword = one.pointer.rpartition("/")
        assert keyword == one.keyword
        assert keyword in (Document(schema).at(f"#{whole.replace('%', '%25')}") if whole else schema)
    assert "then" not in found.schema.document
    assert "minContains" not in found.schema.document


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema"},  # nobody goes there
        {"properties": {"a": {"dependencies": {"b": ["c"]}}}, "required": ["a"]},  # this draft ignores it
    ],
)
def test_what_nobody_could_check_stays_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(tm.UnsupportedKeyword) as caught:
        relaxed(schema_of(schema))
    assert not caught.value.checkable
    assert "guarantee" not in caught.value.hint


def test_too_much_to_leave_out() -> None:
    many = {"properties": {f"p{i}": {"type": "array", "uniqueItems": True} for i in range(40)}}
    with pytest.raises(tm.SchemaTooComplex, match="more than 32 keywords"):
        relaxed(schema_of(many))


@pytest.mark.parametrize(
    ("words", "said"), [({"guarantee": "maybe"}, "'grammar' or 'checked'"), ({"retries": -1}, "from 0")]
)
def test_settings_that_are_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(tm.PolicyError, match=said):
        tm.step("json", **words)


LEAVES = st.sampled_from(
    [{"type": "integer"}, {"type": "string", "pattern": "a(?=b)"}, {"type": "string", "maxLength": 2}, {"const": 1},
     {"type": "array", "uniqueItems": True}, {"not": {"pattern": "a"}}, {"not": {"type": "integer"}}, {}]
)  # fmt: skip


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda key, parts: {key: parts}, st.sampled_from(["oneOf", "anyOf", "allOf"]), several),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
        st.builds(lambda part: {"type": "array", "items": part, "uniqueItems": True}, inner),
        st.builds(lambda part: {"type": "array", "contains": part}, inner),
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "minProperties": 1}, inner, inner),
    )


SCHEMAS = st.recursive(LEAVES, _larger, max_leaves=6)
VALUES = st.recursive(
    st.sampled_from([1, 2, "a", "ab", "abc", None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(SCHEMAS.filter(bool), st.lists(VALUES, min_size=1, max_size=6))
def test_nothing_that_fits_is_lost(schema: dict[str, Any], values: list[Any]) -> None:
    """The weaker schema takes every value that the given one takes, and says what it left out."""
    try:
        found = relaxed(schema_of(schema))
    except tm.SchemaRefused:
        return
    given, weaker = jsonschema.Draft202012Validator(schema), jsonschema.Draft202012Validator(found.schema.document)
    for value in values:
        assert weaker.is_valid(value) or not given.is_valid(value), json.dumps(found.schema.document)
    if found.schema.document != schema:
        assert found.dropped
