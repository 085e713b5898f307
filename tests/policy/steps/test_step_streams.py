"""Streams of steps: the engine's events, within the session that the step was called in."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

import trimode as tm
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine


@tm.step("plan", max_tokens=20)
def plan(goal: str) -> str:
    """Plan: {goal}"""
    ...


@tm.step("prose", max_tokens=20)
async def say(text: str) -> str:
    """{text}"""
    ...


async def pieces(stream: Any) -> list[tm.StreamEvent]:
    return [event async for event in stream]


def test_events_are_the_engines(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()) as session:
        events, whole = list(plan.stream("a picnic")), plan.result("a picnic")
        later, text = asyncio.run(pieces(say.stream("Hello"))), asyncio.run(say.result("Hello"))
    for found, result in ((events, whole), (later, text)):
        assert "".join(event.text for event in found if not event.provisional) == result.text
        assert found[-1].result is not None
        assert found[-1].result.token_ids == result.token_ids
        assert len(found) > 2
    assert [kind for kind, _ in session.results] == ["plan", "plan", "prose", "prose"]


def test_a_stream_is_recorded_where_the_step_was_called(reference: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}") as session:
        stream = plan.stream("a picnic")
        left = plan.stream("a long walk")
    last = list(stream)[-1]
    with closing(left):
        next(left)
    assert verify(path) == []
    whole, cancelled = records(read_audit(path))
    assert last.result is not None
    assert whole.call == last.result.audit_id
    assert [result.audit_id for _, result in session.results] == [whole.call]
    assert cancelled.error == "trimode.engine.errors.CallCancelled"


def test_a_task_leaves_early(reference: Engine) -> None:
    async def first() -> str:
        async with aclosing(say.stream("Hello")) as events:
            async for event in events:
                return event.text
        raise AssertionError("no event")

    with tm.session(reference, policy=tm.Policy()) as session:
        assert asyncio.run(first())
    assert session.results == []
    assert session.spent.tokens >= 1, "what was shown is counted"


def test_outside_a_session() -> None:
    with pytest.raises(tm.StepError, match="outside a session"):
        plan.stream("x")
