"""Tools as functions: the one that a call names is run, with arguments of its types."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydantic import BaseModel, TypeAdapter, ValidationError

import trimode as tm
from trimode.policy.calls.engine import Engine
from trimode.testing import FakeEngine

SECRET = "hippopotamus"


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(BaseModel):
    city: str


def weather(place: Place, day: date, *, unit: Unit = Unit.C) -> str:
    """The weather."""
    return f"{place.city} {day.isoformat()} {unit.name}"


async def wait(seconds: int) -> int:
    """Waits."""
    await asyncio.sleep(0)
    return seconds


def broken(text: str) -> None:
    """Fails with an error of its own."""
    TypeAdapter(int).validate_python(text)


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        """Adds to the total."""
        self.total += number
        return self.total


DESCRIBED = {"type": "function", "function": {"name": "elsewhere", "description": "", "parameters": {}}}
COUNTER = Counter()
TOOLS: list[Any] = [weather, wait, broken, COUNTER.add, DESCRIBED]


def call(name: str, **arguments: Any) -> tm.ToolCall:
    return tm.ToolCall(name=name, arguments=arguments)


def test_arguments_arrive_as_the_functions_types() -> None:
    result = tm.execute(call("weather", place={"city": "Rome"}, day="2030-01-02", unit="fahrenheit"), TOOLS)
    assert result == "Rome 2030-01-02 F"
    assert tm.execute(call("add", number=2), TOOLS) == COUNTER.total == 2
    assert asyncio.run(tm.aexecute(call("wait", seconds=0), TOOLS)) == 0


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"place": {"city": "Rome"}, "day": "someday"}, "day"),
        ({"place": {}, "day": "2030-01-02"}, r"place\.city"),
        ({"place": {"city": "Rome"}}, "day"),
        ({"place": {"city": "Rome"}, "day": "2030-01-02", "unti": "celsius"}, "unti"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_runs(given: dict[str, Any], place: str) -> None:
    with pytest.raises(tm.InvalidArguments, match=f"tool 'weather' was not called: pydantic at {place}") as caught:
        tm.execute(call("weather", **given), TOOLS)
    assert (caught.value.name, caught.value.arguments) == ("weather", given)
    with pytest.raises(tm.InvalidArguments):
        asyncio.run(tm.aexecute(call("wait", seconds="soon"), TOOLS))


def test_tools_that_cannot_be_run() -> None:
    with pytest.raises(tm.UnknownTool, match="no tool is named 'fly'; known: weather, wait, broken, add, elsewhere"):
        tm.execute(call("fly"), TOOLS)
    with pytest.raises(tm.ToolError, match="a description without a function"):
        tm.execute(call("elsewhere"), TOOLS)
    with pytest.raises(tm.UnknownTool, match="known: none"):
        tm.execute(call("fly"), [])


def test_a_tools_own_error_stays_its_own() -> None:
    with pytest.raises(ValidationError) as caught:
        tm.execute(call("broken", text="x"), TOOLS)
    assert not isinstance(caught.value, tm.ToolError)


def _fails(run: Callable[[], Any]) -> None:
    with pytest.raises(tm.InvalidArguments):
        run()


def test_its_span_is_around_what_the_tool_does(spans: InMemorySpanExporter) -> None:
    def ask(question: str) -> str:
        """Asks another model."""
        trace.get_tracer("test").start_span("inner").end()
        return question

    tm.execute(call("ask", question=SECRET), [ask])
    _fails(lambda: tm.execute(call("ask", question=3), [ask]))
    inner, good, bad = spans.get_finished_spans()
    assert inner.parent == good.context
    assert good.name == bad.name == "execute_tool ask"
    assert dict(good.attributes or {})["gen_ai.tool.name"] == "ask"
    assert bad.status.status_code is StatusCode.ERROR
    assert dict(bad.attributes or {})["error.type"] == "trimode.policy.errors.InvalidArguments"
    assert SECRET not in good.to_json()


@pytest.mark.parametrize("fake", [True, False])
def test_from_step_to_value(reference: Engine, fake: bool) -> None:
    @tm.step("tool_call", tools=[weather, wait], max_tokens=80)
    def act(goal: str) -> tm.ToolCall:
        """{goal}"""
        ...

    scripted = FakeEngine({"act": call("weather", place={"city": "Rome"}, day="2030-01-02")})
    with tm.session(scripted if fake else reference, policy=tm.Policy()):
        chosen = act.result("The weather in Rome?")
    if chosen.valid:
        assert asyncio.run(tm.aexecute(chosen.value, [weather, wait])) is not None
    assert chosen.valid or not fake
