"""The engine for users' tests: says what it is told, and is an engine in everything else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, Field

import trimode as tm
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.call import Call
from trimode.testing import FakeEngine, ScriptError, in_turn


class Order(BaseModel):
    item: str = Field(min_length=2)
    count: int = Field(ge=1, lt=9)
    note: str | None = None


@dataclass
class Point:
    x: float
    y: float


def pay(amount: int) -> None:
    """Pays."""


@tm.step("json")
def order(text: str) -> Order:
    """Order: {text}"""
    ...


@tm.step("json")
async def point(text: str) -> Point:
    """{text}"""
    ...


@tm.step("tool_call", tools=[pay])
def act(goal: str) -> tm.ToolCall:
    """{goal}"""
    ...


@tm.step
def say(text: str) -> str:
    """{text}"""
    ...


@tm.step("choice")
def pick(text: str) -> Literal["yes", "no", "perhaps"]:
    """{text}"""
    ...


def test_scripted_answers() -> None:
    tea = Order(item="tea", count=2)
    script = {
        "order": in_turn(tea, {"item": "milk", "count": 1}, lambda call: Order(item=call.step, count=8)),
        "point": Point(1.5, -2),
        "act": {"name": "pay", "arguments": {"amount": 3}},
        "say": "Hello.",
        "pick": "no",
    }
    fake = FakeEngine(script)
    with tm.session(fake, policy=tm.Policy()):
        assert order("a") == tea
        assert order("b") == Order(item="milk", count=1)
        assert order("c") == Order(item="order", count=8)
        assert asyncio.run(point("x")) == Point(1.5, -2)
        assert act("x") == tm.ToolCall(name="pay", arguments={"amount": 3})
        assert say("x") == "Hello."
        assert pick("x") == "no"
        with pytest.raises(ScriptError, match="step 'order' was called more than 3 times"):
            order("d")
    assert [call.step for call in fake.calls[:3]] == ["order"] * 3
    assert fake.calls[0].messages == ({"role": "user", "content": "Order: a"},)


def test_without_a_script_small_values_that_fit() -> None:
    fake = FakeEngine()
    with tm.session(fake, policy=tm.Policy()):
        assert isinstance(order("x"), Order)
        assert isinstance(asyncio.run(point("x")), Point)
        assert act("x").name == "pay"
        assert say("x") == "say"
        assert pick("x") == "yes"
    assert fake.generate("x").text == "generate"
    assert asyncio.run(fake.agenerate("x", schema=list[int])).value == []
    assert fake.choice(["a", "b"], "x").text == "a"


def test_probabilities_of_a_choice() -> None:
    with tm.session(FakeEngine({"pick": {"yes": 0.2, "no": 0.3, "perhaps": 0.5}}), policy=tm.Policy()):
        result = pick.result("x")
    assert result.value == "perhaps"
    assert result.choice is not None
    assert result.choice.probabilities == pytest.approx((0.2, 0.3, 0.5))


def test_streams_stops_and_thinking() -> None:
    fake = FakeEngine({"stream": "one two STOP three", "generate": "an answer"})
    events = list(fake.stream("x", stop="STOP"))
    assert "".join(event.text for event in events) == "one two "
    assert len(events) > 2
    thought = fake.generate("x", max_thinking_tokens=4)
    assert (thought.thinking, thought.answer) == ("", "an answer")
    cut = fake.generate("x", max_tokens=2)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 2)


def test_errors_on_demand() -> None:
    def busy(_: Call) -> None:
        raise tm.QueueFull(1, 1, 1)

    with tm.session(FakeEngine({"say": busy, "order": tm.CallCancelled("gone")}), policy=tm.Policy()):
        with pytest.raises(tm.QueueFull):
            say("x")
        with pytest.raises(tm.CallCancelled):
            order("x")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"order": {"item": "x", "count": 1}}, "its answer does not fit the schema"),
        ({"order": {"item": "xyz", "count": 1, "extra": 1}}, "its answer does not fit the schema"),
        ({"pick": "maybe"}, "chooses one of yes, no, perhaps; its answer is 'maybe'"),
        ({"pick": {"yes": 1.0, "no": 0.0, "perhaps": 0.0}}, "a probability above 0 for each"),
        ({"say": 3}, "step 'say' returns text, and its answer is 3"),
    ],
)
def test_scripts_that_do_not_fit(script: dict[str, Any], said: str) -> None:
    with tm.session(FakeEngine(script), policy=tm.Policy()), pytest.raises(ScriptError, match=said):
        (order if "order" in script else pick if "pick" in script else say)("x")


def test_schemas_are_those_of_the_real_engine() -> None:
    assert len(FakeEngine().generate("x", schema={"type": "string", "pattern": "^[0-9]{4}$"}).value) == 4
    with pytest.raises(tm.UnsupportedKeyword):
        FakeEngine().generate("x", schema={"type": "array", "uniqueItems": True})
    with pytest.raises(tm.BudgetTooSmall):
        FakeEngine().generate("x", schema={"type": "string", "minLength": 90}, max_tokens=3)
    with pytest.raises(ScriptError, match="do not fit max_tokens=6"):
        FakeEngine({"generate": "a rather long answer"}).generate("x", schema={"type": "string"}, max_tokens=6)


def test_spans_and_records_are_written(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(FakeEngine({"say": "Hello."}), policy=tm.Policy(), trace=f"file:{path}", content=True):
        say("x")
        order("x")
        pick("x")
    assert verify(path) == []
    found = records(read_audit(path))
    assert [(record.step, record.schema_valid) for record in found] == [("say", None), ("order", True), ("pick", True)]
    assert (found[0].text, found[2].text) == ("Hello.", "yes")
    assert {record.runtime.model for record in found} == {"trimode-fake"}
    assert "chat trimode-fake" in [span.name for span in spans.get_finished_spans()]
