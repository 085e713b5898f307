"""Answers beside recorded ones: exact tool calls, shares of JSON fields, edit distances, validity."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_calls import PARIS, SCHEMA, TOTAL, WEATHER, call

from trimode.integrations.workload.calls import Answer, ToolUse
from trimode.integrations.workload.scoring.agreement import agreement, canonical_equal
from trimode.integrations.workload.scoring.edit_distance import distance, similarity

short = st.text(alphabet="abc", max_size=9)


def by_table(one: str, other: str) -> int:
    """The edit distance by Wagner and Fischer's table."""
    row = list(range(len(other) + 1))
    for at, left in enumerate(one, start=1):
        new = [at]
        for place, right in enumerate(other, start=1):
            new.append(min(row[place] + 1, new[-1] + 1, row[place - 1] + (left != right)))
        row = new
    return row[-1]


@given(short, short)
def test_the_distance_is_that_of_the_table(one: str, other: str) -> None:
    assert distance(one, other) == by_table(one, other)


@given(st.text(max_size=200), st.text(max_size=200))
def test_similarity_is_a_share_and_symmetric(one: str, other: str) -> None:
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert (similarity(one, other) == 1) == (one == other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_json_agrees_with_itself_and_shares_are_symmetric(one: Any, other: Any) -> None:
    def score(then: Any, now: Any) -> float:
        return agreement(call(answer=Answer(json.dumps(then)), schema=None), Answer(json.dumps(now))).score

    assert score(one, one) == 1
    assert score(one, other) == score(other, one)
    assert (score(one, other) == 1) == canonical_equal(one, other)


@pytest.mark.parametrize(
    ("found", "score", "valid"),
    [
        (TOTAL, 1.0, True),
        ('{"unit": "cm", "total": 3}', 1.0, True),
        ('{"total":3,"unit":"m"}', 0.5, True),
        ('{"total":3}', 0.5, False),
        ('{"total":3,"unit":"cm","more":1}', 2 / 3, False),
        ('{"total":true,"unit":"cm"}', 0.5, False),
        ('{"total":', 0.0, False),
        ("", 0.0, False),
    ],
)
def test_json_fields(found: str, score: float, valid: bool) -> None:
    told = agreement(call(), Answer(found))
    assert (told.score, told.fields, told.valid) == (score, score, valid)


@pytest.mark.parametrize(
    ("calls", "names", "arguments", "valid"),
    [
        ([("weather", {"days": 2, "city": "Paris"})], True, True, True),
        ([("weather", {"days": 2.0, "city": "Paris"})], True, True, True),
        ([("weather", {"city": "Paris"})], True, False, True),
        ([("weather", {"city": "Paris", "days": "2"})], True, False, False),
        ([("weather", {"city": "Paris", "days": 2})] * 2, False, False, True),
        ([("train", {"city": "Paris", "days": 2})], False, False, False),
        ([("weather", '{"city":')], True, False, False),
    ],
)
def test_tool_calls_are_exact_or_not(calls: list[tuple[str, Any]], names: bool, arguments: bool, valid: bool) -> None:
    asked = call(kind="turn", tools=(WEATHER,), schema=None, answer=PARIS)
    found = agreement(asked, Answer(calls=tuple(ToolUse(*one) for one in calls)))
    assert (found.names, found.arguments, found.valid, found.score) == (names, arguments, valid, float(arguments))


def test_prose_instead_of_a_call_scores_nothing_and_a_call_instead_of_prose_too() -> None:
    asked = call(kind="turn", tools=(WEATHER,), schema=None, answer=PARIS)
    assert agreement(asked, Answer("I do not know.")).score == 0
    told = call(kind="turn", tools=(WEATHER,), schema=None, answer=Answer("I do not know."))
    assert agreement(told, PARIS).score == 0
    assert agreement(told, Answer("I do not know.")).prose == 1


def test_without_a_schema_nothing_is_valid_or_invalid() -> None:
    assert agreement(call(kind="prose", schema=None, answer=Answer("yes")), Answer("no")).valid is None


def test_a_text_format_is_checked_by_itself() -> None:
    asked = call(kind="prose", schema={"x-regex": "[a-c]+"}, answer=Answer("abc"))
    assert [agreement(asked, Answer(text)).valid for text in ("cab", "dog")] == [True, False]


def test_a_schema_that_no_grammar_takes_is_still_validated() -> None:
    asked = call(schema={**SCHEMA, "not": {"properties": {"total": {"const": 4}}}})
    assert agreement(asked, Answer('{"total":4,"unit":"m"}')).valid is False
