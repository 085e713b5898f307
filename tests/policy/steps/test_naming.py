"""`using(step=..., kind=...)`: the name and kind of calls that are made of an engine without a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import trimode as tm
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.call import Call
from trimode.policy.calls.fake_engine import FakeEngine

ASKED = [{"role": "user", "content": "hello"}]


def add(left: int, right: int) -> int:
    """Adds two numbers."""
    return left + right


async def drained(engine: FakeEngine, **options: Any) -> None:
    async with aclosing(engine.astream(messages=ASKED, **options)) as events:
        async for _ in events:
            pass


CALLS: dict[str, Callable[[FakeEngine], Any]] = {
    "generate": lambda engine: engine.generate(messages=ASKED),
    "agenerate": lambda engine: asyncio.run(engine.agenerate(messages=ASKED)),
    "stream": lambda engine: [*engine.stream(messages=ASKED)],
    "astream": lambda engine: asyncio.run(drained(engine)),
}


def only(engine: FakeEngine) -> Call:
    (call,) = engine.calls
    return call


@pytest.mark.parametrize("name", CALLS)
def test_every_method_takes_name_and_kind(name: str) -> None:
    engine = FakeEngine()
    with tm.using(step="planner", kind="plan"):
        CALLS[name](engine)
    assert (only(engine).step, only(engine).kind) == ("planner", "plan")
    engine = FakeEngine()
    CALLS[name](engine)
    assert (only(engine).step, only(engine).kind) == (name, "prose")


def test_record_and_policy_know_the_name(tmp_path: Path) -> None:
    table = tm.Policy.from_table({"steps": {"planner": {"mode": "quadratic_spec"}}}, "by name")
    trail = tmp_path / "audit.jsonl"
    with tm.session(FakeEngine(), policy=table, trace=f"file:{trail}") as session:
        with tm.using(step="planner"):
            named = session.engine.generate(messages=ASKED)
        other = session.engine.generate(messages=ASKED)
    assert (named.plan.mode, named.plan.reason) == (
        "quadratic_spec",
        "quadratic_spec: policy 'by name' for step 'planner'",
    )
    assert other.plan.mode != "quadratic_spec"
    assert [(one.step, one.kind) for one in records(read_audit(trail))] == [("planner", "prose"), ("generate", "prose")]


def test_an_inner_block_changes_only_what_it_gives() -> None:
    engine = FakeEngine()
    with tm.using(step="outer", kind="plan"):
        with tm.using(step="inner", mode="ar"):
            engine.generate(messages=ASKED)
        engine.generate(messages=ASKED)
    inner, outer = engine.calls
    assert (inner.step, inner.kind, inner.plan.mode) == ("inner", "plan", "ar")
    assert (outer.step, outer.kind) == ("outer", "plan")


def test_a_call_that_gives_its_kind_keeps_it() -> None:
    engine = FakeEngine()
    with tm.using(step="judge", kind="plan"):
        engine.generate(messages=ASKED, step="prose")
        engine.choice(["yes", "no"], messages=ASKED)
        engine.infill("a", "b")
    assert [(one.step, one.kind) for one in engine.calls] == [
        ("judge", "prose"),
        ("judge", "choice"),
        ("judge", "prose"),
    ]


def test_a_step_keeps_its_own_name() -> None:
    @tm.step("prose")
    def reply(facts: str) -> str:
        return tm.ask(facts)

    engine = FakeEngine()
    with tm.session(engine), tm.using(step="other", kind="plan"):
        reply("hello")
    assert (only(engine).step, only(engine).kind) == ("reply", "prose")


def test_a_turn_may_be_asked_for_by_kind_alone() -> None:
    engine = FakeEngine({"agent": {"name": "add", "arguments": {"left": 1, "right": 2}}})
    with tm.using(step="agent", kind="turn"):
        result = engine.generate(messages=ASKED, tools=[add])
    assert [call.arguments for call in result.calls] == [{"left": 1, "right": 2}]


def test_a_kind_that_contradicts_the_call_is_refused() -> None:
    with tm.using(kind="plan"), pytest.raises(tm.StepError, match=r"leave out using\(kind='plan'\)"):
        FakeEngine().generate(messages=ASKED, tools=[add], tool_choice="auto")
    with tm.using(kind="tool_call"), pytest.raises(tm.StepError, match="needs tools"):
        FakeEngine().generate(messages=ASKED)


@pytest.mark.parametrize("wrong", [{"step": ""}, {"step": " "}, {"step": 3}, {"kind": "chat"}, {"kind": 3}])
def test_names_and_kinds_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(tm.PolicyError, match="using"), tm.using(**wrong):
        pass


def test_tasks_inherit_the_name_and_others_do_not_see_it() -> None:
    engine = FakeEngine()

    async def agent(name: str) -> None:
        with tm.using(step=name):
            await asyncio.create_task(engine.agenerate(messages=ASKED))
            await asyncio.sleep(0)
            await engine.agenerate(messages=ASKED)

    async def both() -> None:
        await asyncio.gather(agent("one"), agent("two"))
        await engine.agenerate(messages=ASKED)

    asyncio.run(both())
    names = [call.step for call in engine.calls]
    assert sorted(names[:-1]) == ["one", "one", "two", "two"]
    assert names[-1] == "agenerate"
