"""What the type checkers see of the decorators: read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_type

from pydantic import BaseModel

import trimode as tm
from trimode.policy.steps.decorator import AsyncStep, Step


class Order(BaseModel):
    item: str


@tm.step
def bare(what: str) -> str:
    """{what}"""
    ...


@tm.step("json", mode="ar", max_tokens=8)
def called(what: str, count: int = 1) -> Order:
    """{what}"""
    ...


@tm.step("tool_call", tools=[print])
async def act(goal: str) -> tm.ToolCall:
    """{goal}"""
    ...


@tm.step
async def bare_async(goal: str) -> list[int]:
    """{goal}"""
    ...


@tm.step("json")
def asked(history: Sequence[Mapping[str, Any]]) -> Order:
    return tm.ask(history)


@tm.step()
def asked_text(what: str) -> str:
    return tm.ask(f"Say {what}.")


@tm.step("choice")
def decide(question: str) -> Literal["yes", "no"]:
    """{question}"""
    ...


@tm.step("choice", choices=["red", "green"])
async def colour(of: str) -> str:
    """{of}"""
    ...


class Agent:
    @tm.step("json")
    def order(self, what: str) -> Order:
        """{what}"""
        ...

    @tm.step
    async def say(self, what: str) -> str:
        """{what}"""
        ...


async def methods(agent: Agent, call: tm.ToolCall) -> None:
    assert_type(agent.order("x"), Order)
    assert_type(agent.order.result("x"), tm.Result[Order])
    assert_type(agent.order.options(seed=1)("x"), Order)
    assert_type(Agent.order(agent, "x"), Order)
    assert_type(await agent.say("x"), str)
    agent.order(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tm.aexecute(call, [bare, act])


def weather(city: str, days: int = 1) -> str:
    """The forecast for a city."""
    return f"{city}: sun for {days} days"


async def send(to: str) -> bool:
    """Sends what was written."""
    return bool(to)


class Search(BaseModel):
    query: str


TOOLS = [weather, send]


@tm.step("tool_call", tools=[weather, send, Search, {"name": "plain", "parameters": {}}], max_tokens=60)
def mixed(goal: str) -> tm.ToolCall:
    """{goal}"""
    return tm.ask()


@tm.step("tool_call", tools=TOOLS)
async def mixed_async(goal: str) -> tm.ToolCall:
    """{goal}"""
    return tm.ask()


async def tools_of_both_kinds() -> None:
    call = mixed("x")
    tm.execute(call, TOOLS)
    tm.execute(call, [weather, send, Search])
    assert_type(tm.execute_tool(weather, call), str)
    assert_type(await tm.execute_tool(send, call), bool)
    assert_type(tm.execute_tool(Search, call), Search)
    assert_type(await mixed_async("x"), tm.ToolCall)


def sync_steps() -> None:
    text: Step[[str], str] = bare
    assert_type(text("x"), str)
    assert_type(bare("x"), str)
    assert_type(called("x", count=2), Order)
    assert_type(called.result("x"), tm.Result[Order])
    assert_type(called.result("x").value, Order)
    assert_type(bare.result("x").value, str)
    assert_type(decide.result("x").value, Literal["yes", "no"])
    anyone: tm.Result = called.result("x")
    assert_type(anyone.value, Any)
    assert_type(called.options(mode="ar")("x"), Order)
    assert_type(called.options(mode="ar").result("x").text, str)
    assert_type(asked([{"role": "user", "content": "x"}]), Order)
    assert_type(asked_text("x"), str)
    assert_type(decide("x"), Literal["yes", "no"])
    assert_type(decide.result("x").choice, tm.ScoredChoice | None)
    assert_type(called.result("x").guarantee, Literal["grammar", "checked"] | None)
    for event in called.stream("x", count=2):
        assert_type(event, tm.StreamEvent[Order])
        assert_type(event.result, tm.Result[Order] | None)
    called.stream(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    called(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    called("x", cuont=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    called.options(mode="turbo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    called.options(max_tokens="8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    called.options(speed=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tm.step("json", temperature="hot")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    tm.step("json", max_token=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    with tm.using(seed="1"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pass
    tm.step("dream")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def async_steps() -> None:
    assert_type(await act("x"), tm.ToolCall)
    assert_type(await act.result("x"), tm.Result[tm.ToolCall])
    assert_type((await bare_async.result("x")).value, list[int])
    assert_type(await act.options(seed=1)("x"), tm.ToolCall)
    assert_type(await bare_async("x"), list[int])
    assert_type(await colour("x"), str)
    async for event in act.stream("x"):
        assert_type(event.result, tm.Result[tm.ToolCall] | None)
    wrong: AsyncStep[[int], tm.ToolCall] = act  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert wrong


def sessions(engine: tm.Engine) -> None:
    with tm.session(engine, trace="file:audit.jsonl") as session, tm.using(mode="ar"):
        assert_type(session, tm.Session)
        assert_type(session.results, list[tuple[str, tm.Result]])
    with tm.session(engine, budget=tm.Budget(tokens=10, seconds=1.5)) as session:
        assert_type(session.spent, tm.Spent)
    with tm.session(tm.testing.FakeEngine({"act": "x"})):
        pass
    tm.Budget(tokens="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    engine.generate("x", guarantee="maybe")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    result = engine.generate("x", mode="ar", guarantee="checked", retries=3)
    assert_type(result, tm.Result)
    assert_type(result.token_ids, tuple[int, ...])
