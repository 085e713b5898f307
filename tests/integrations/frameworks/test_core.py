"""What the adapters of frameworks share, on an engine without a model: names and kinds, pieces, causes, conventions."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trimode as tm
from trimode.engine.errors import QueueFull
from trimode.integrations.frameworks.core.ask import Ask
from trimode.integrations.frameworks.core.causes import cause_of, translated
from trimode.integrations.frameworks.core.completions import delta_values, message_values, tool_values, usage_values
from trimode.integrations.frameworks.core.conventions import closed, one_system
from trimode.integrations.frameworks.core.facts import ending_of, facts_of
from trimode.integrations.frameworks.core.kinds import kind_of
from trimode.integrations.frameworks.core.pieces import Piece
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.fake_engine import FakeEngine

ASKED = [{"role": "user", "content": "hello"}]
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
CALL: dict[str, Any] = {"name": "add", "arguments": {"a": 1}}


def told(ask: Ask) -> tuple[str, str]:
    engine = FakeEngine()
    ask.generate(engine)
    return engine.calls[0].step, engine.calls[0].kind


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("chat", "prose")),
        ({"node": "helper"}, ("helper", "prose")),
        ({"node": "planner"}, ("planner", "plan")),
        ({"node": "planner", "schema": {"type": "integer"}}, ("planner", "json")),
        ({"schema": tm.Regex("[ab]")}, ("chat", "prose")),
        ({"node": "planner", "tools": [ADD]}, ("planner", "turn")),
        ({"node": "helper", "step": "own", "kind": "plan"}, ("own", "plan")),
    ],
)
def test_names_and_kinds(asked: Any, expected: tuple[str, str]) -> None:
    assert told(Ask(messages=ASKED, **asked)) == expected


def test_own_settings_are_stronger_than_using_and_using_than_the_table() -> None:
    with tm.using(step="around", kind="plan"):
        assert told(Ask(messages=ASKED, node="helper")) == ("around", "plan")
        assert told(Ask(messages=ASKED, node="helper", step="own", kind="prose")) == ("own", "prose")
        with pytest.raises(tm.StepError, match="kind='plan'"):
            told(Ask(messages=ASKED, tools=[ADD]))


def test_arguments_of_frameworks_are_fields_of_a_call_or_settings() -> None:
    given = {"mode": "ar", "step": "s", "kind": None, "timeout": 3, "tools": [ADD], "parallel_tool_calls": False}
    ask = Ask.of({**given, "tool_choice": "required", "schema": None, "seed": 0}, messages=ASKED, node="n")
    assert ask == Ask(
        messages=ASKED, tools=[ADD], tool_choice="required", parallel=False, node="n", step="s", timeout=3,
        settings={"mode": "ar", "seed": 0},
    )  # fmt: skip


def test_a_turn_in_openais_form_whole_and_in_pieces() -> None:
    ask = Ask(messages=ASKED, tools=[ADD], tool_choice="required")
    whole, pieces = ask.generate(FakeEngine({"chat": CALL})), [*ask.stream(FakeEngine({"chat": CALL}))]
    (call,) = message_values(whole)["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a":1}'}
    deltas = [one for piece in pieces for one in delta_values(piece).get("tool_calls", ())]
    assert deltas[0]["id"] is not None
    assert [one["id"] for one in deltas[1:]] == [None] * (len(deltas) - 1)
    assert [one["function"]["name"] for one in deltas if "name" in one["function"]] == ["add"]
    assert "".join(one["function"]["arguments"] for one in deltas) == '{"a":1}'
    usage = usage_values(whole)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert tool_values("a", None, None)["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("name", ["plan", "Planner", "re-planning", "plan_trip", "the planner"])
def test_names_that_plan(name: str) -> None:
    assert kind_of(False, None, name) == "plan"


@pytest.mark.parametrize("name", ["", "plane_search", "explanation", "helper"])
def test_names_that_do_not(name: str) -> None:
    assert kind_of(False, None, name) == "prose"


def streamed(ask: Ask, engine: Engine, how: str) -> list[Piece]:
    async def collected() -> list[Piece]:
        async with aclosing(ask.astream(engine)) as pieces:
            return [piece async for piece in pieces]

    return [*ask.stream(engine)] if how == "stream" else asyncio.run(collected())


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize(
    "answer", ["some words", CALL, tm.Turn(text="well, ", calls=(tm.IdentifiedCall(id="1", **CALL),))]
)
def test_pieces_are_the_turn(how: str, answer: Any) -> None:
    engine = FakeEngine({"chat": answer})
    pieces = streamed(Ask(messages=ASKED, tools=[ADD]), engine, how)
    result = pieces[-1].result
    assert result is not None
    assert [piece.result for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces).strip() == (result.content or "").strip()
    arguments = "".join(piece.call.arguments for piece in pieces if piece.call)
    assert bool(arguments) == bool(result.calls)
    assert [piece.call.id for piece in pieces if piece.call and piece.call.name] == [call.id for call in result.calls]
    assert ending_of(result) == ("tool_calls" if result.calls else "stop")


def test_a_plain_answer_in_pieces() -> None:
    pieces = streamed(Ask(messages=ASKED), FakeEngine({"chat": "some words"}), "stream")
    assert "".join(piece.text for piece in pieces) == "some words"


@pytest.mark.parametrize("tools", [[], [ADD]])
def test_thinking_is_apart(tools: Any, reference: Engine) -> None:
    ask = Ask(messages=ASKED, tools=tools, settings={"max_thinking_tokens": 4, "max_tokens": 24})
    pieces = streamed(ask, reference, "stream")
    result = pieces[-1].result
    assert result is not None
    assert "".join(piece.thinking for piece in pieces) == result.thinking
    assert "".join(piece.text for piece in pieces) == (result.content or "")


def test_facts_add_up(reference: Engine) -> None:
    facts = facts_of(Ask(messages=ASKED, settings={"mode": "linear_spec", "max_tokens": 12}).generate(reference))
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0
    assert facts["acceptance"] == facts["accepted"] / facts["drafted"]
    assert (facts["step"], facts["kind"], facts["modes"]) == ("chat", "prose", ["linear_spec"])
    assert facts_of(Ask(messages=ASKED).generate(FakeEngine()))["acceptance"] is None


@pytest.mark.parametrize("how", ["generate", "agenerate", "stream", "astream"])
def test_timeouts(how: str, reference: Engine) -> None:
    ask = Ask(messages=ASKED, timeout=1e-9, settings={"max_tokens": 200})
    runs: dict[str, Callable[[], Any]] = {
        "generate": lambda: ask.generate(reference),
        "agenerate": lambda: asyncio.run(ask.agenerate(reference)),
        "stream": lambda: streamed(ask, reference, "stream"),
        "astream": lambda: streamed(ask, reference, "astream"),
    }
    with pytest.raises(TimeoutError):
        runs[how]()
    assert Ask(messages=ASKED, timeout=300, settings={"max_tokens": 4}).generate(reference).text


def test_the_session_is_that_of_the_call_not_of_the_reading() -> None:
    engine = FakeEngine()
    with tm.session(engine), tm.using(step="asked"):
        pieces = Ask(messages=ASKED).stream(engine)
    assert [*pieces][-1].result is not None
    assert engine.calls[0].step == "asked"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (tm.PromptTooLong(9, 1, 8), "too_long"),
        (tm.RequestError("x"), "invalid"),
        (tm.PolicyError("x"), "invalid"),
        (tm.StepError("x"), "invalid"),
        (tm.SchemaError("x"), "invalid"),
        (tm.SchemaViolation("text", "why"), "output"),
        (tm.CallCancelled("x"), "cancelled"),
        (TimeoutError(), "timeout"),
        (tm.TrimodeError("x"), "internal"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
    with pytest.raises(LookupError) as found, translated(lambda cause, message: LookupError(cause, message)):
        raise error
    assert found.value.args[0] == cause
    assert found.value.args[1]
    assert found.value.__cause__ is error


def test_errors_of_others_pass() -> None:
    with pytest.raises(KeyError), translated(lambda *_: LookupError()):
        raise KeyError("theirs")
    assert issubclass(QueueFull, tm.TrimodeError)


def test_system_messages_at_the_beginning_are_joined() -> None:
    system, developer = {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}
    assert one_system([system, developer, *ASKED]) == [{"role": "system", "content": "a\n\nb"}, *ASKED]
    assert one_system([system, *ASKED, developer]) == [system, *ASKED, developer]
    assert one_system([system, system]) == [{"role": "system", "content": "a\n\na"}]


LEAVES = st.sampled_from([{"type": "integer"}, {"type": "string"}, {"enum": [1, "a"]}, True])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda one: {"type": "object", "properties": one}
        ),
        inner.map(lambda one: {"type": "array", "items": one}),
        st.lists(inner, min_size=1, max_size=2).map(lambda one: {"anyOf": one}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.sampled_from([1, "a", None]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None)
@given(SCHEMAS, VALUES)
def test_a_closed_schema_allows_no_more_than_the_open_one(schema: Any, value: Any) -> None:
    if jsonschema.Draft202012Validator(closed(schema)).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


def test_closed_objects_have_no_other_keys() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}, "required": ["a"]}
    assert jsonschema.Draft202012Validator(schema).is_valid({"a": {"b": 1}, "c": 2})
    assert not jsonschema.Draft202012Validator(closed(schema)).is_valid({"a": {"b": 1}})
    assert not jsonschema.Draft202012Validator(closed(schema)).is_valid({"a": {}, "c": 2})
    said = {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}
    assert closed(said) == said


@pytest.mark.parametrize(
    ("module", "sdk", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("openai_agents", "agents", "openai-agents"),
        ("google_adk", "google.adk.models._capabilities", "google-adk"),
        ("dspy", "dspy", "dspy"),
        ("litellm", "litellm", "litellm"),
    ],
)
def test_a_missing_sdk_says_what_to_install(module: str, sdk: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, sdk, None)
    name = f"trimode.integrations.frameworks.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'trimode\[{extra}\]'"):
        importlib.import_module(name)
