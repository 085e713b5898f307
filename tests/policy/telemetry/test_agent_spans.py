"""Spans around calls: agents, tools and plans nest, a host's inference span is respected, sessions stay apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from loaded import SHORT
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, use_span
from pydantic import BaseModel

import trimode as tm
from trimode.policy.audit.content import SWITCH
from trimode.policy.calls.engine import Engine

ASK: list[dict[str, str]] = [{"role": "user", "content": "How long is the table?"}]
LONG: dict[str, Any] = {
    "messages": ASK,
    "schema": {"type": "string", "minLength": 300, "maxLength": 310},
    "max_tokens": 400,
}


class Place(BaseModel):
    city: str


def look(place: Place, days: int = 1) -> str:
    return f"{place.city}: {days}"


async def look_later(place: Place) -> str:
    await asyncio.sleep(0)
    trace.get_tracer("theirs").start_span("http").end()
    return place.city


def fail(city: str) -> None:
    raise LookupError(f"no {city}")


CALL = tm.ToolCall(name="look", arguments={"place": {"city": "Bonn"}, "days": 2})


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def under(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and parent.context is not None and child.parent.span_id == parent.context.span_id


def has(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def session(engine: Engine, agent: str | None = "trip", **more: Any) -> contextlib.AbstractContextManager[tm.Session]:
    return tm.session(engine, policy=tm.Policy(), agent=agent, **more)


def test_calls_and_tools_stand_under_the_agent(reference: Engine, spans: InMemorySpanExporter) -> None:
    with session(reference):
        reference.generate("x", max_tokens=1)
        tm.execute_tool(look, CALL)
        assert not trace.get_current_span().get_span_context().is_valid, "the agent's span is never current"
    (agent,) = named(spans, "invoke_agent trip")
    (chat,), (tool,) = named(spans, "chat trimode-reference"), named(spans, "execute_tool look")
    assert under(chat, agent)
    assert under(tool, agent)
    assert {agent.kind, chat.kind, tool.kind} == {SpanKind.INTERNAL}
    assert has(agent)["gen_ai.operation.name"] == "invoke_agent"
    assert has(chat)["trimode.session.id"] == has(tool)["trimode.session.id"]


def test_without_an_agent_there_is_no_agent_span(reference: Engine, spans: InMemorySpanExporter) -> None:
    with session(reference, agent=None):
        reference.generate("x", max_tokens=1)
    assert [span.name for span in spans.get_finished_spans()] == ["decode ar", "chat trimode-reference"]


def test_a_plan_step_stands_in_a_plan_span(reference: Engine, spans: InMemorySpanExporter) -> None:
    for agent, name in (("trip", "plan trip"), (None, "plan")):
        with session(reference, agent):
            reference.generate(messages=ASK, step="plan", max_tokens=1)
        (plan,), chat = named(spans, name), named(spans, "chat trimode-reference")[-1]
        assert under(chat, plan)
        assert (has(plan)["gen_ai.operation.name"], has(chat)["gen_ai.operation.name"]) == ("plan", "chat")
    with session(reference), pytest.raises(tm.PromptTooLong):
        reference.generate(messages=ASK, step="plan", max_tokens=5000)
    assert named(spans, "plan trip")[-1].status.status_code is StatusCode.ERROR


def test_a_span_opened_inside_the_session_is_nearer_than_the_agent(
    reference: Engine, spans: InMemorySpanExporter
) -> None:
    outer, inner = (trace.get_tracer("host").start_span(name) for name in ("outer", "inner"))
    with use_span(outer, end_on_exit=True), session(reference):
        reference.generate("x", max_tokens=1)
        with use_span(inner, end_on_exit=True):
            reference.generate("x", max_tokens=1)
    (agent,) = named(spans, "invoke_agent trip")
    first, second = named(spans, "chat trimode-reference")
    assert under(agent, named(spans, "outer")[0])
    assert under(first, agent)
    assert under(second, named(spans, "inner")[0])


def test_agents_nest_and_a_tool_may_hold_one(reference: Engine, spans: InMemorySpanExporter) -> None:
    def delegate(task: str) -> str:
        with session(reference, "helper"):
            return reference.generate(task, max_tokens=1).text

    with session(reference):
        tm.execute_tool(delegate, tm.ToolCall(name="delegate", arguments={"task": "x"}))
        with session(reference, agent=None):
            reference.generate("x", max_tokens=1)
    (agent,), (tool,), (helper,) = (
        named(spans, name) for name in ("invoke_agent trip", "execute_tool delegate", "invoke_agent helper")
    )
    inside, nested = named(spans, "chat trimode-reference")
    assert under(tool, agent)
    assert under(helper, tool)
    assert under(inside, helper)
    assert under(nested, agent)


def test_a_tool_gets_typed_arguments_and_keeps_content_to_itself(
    reference: Engine, spans: InMemorySpanExporter
) -> None:
    with session(reference):
        assert tm.execute_tool(look, CALL, call_id="c1") == "Bonn: 2"
        with pytest.raises(tm.InvalidArguments):
            tm.execute_tool(look, tm.ToolCall(name="look", arguments={"days": "many"}))
        with pytest.raises(LookupError):
            tm.execute_tool(fail, tm.ToolCall(name="fail", arguments={"city": "Bonn"}))
    tools = [span for span in spans.get_finished_spans() if span.name.startswith("execute_tool")]
    assert [has(tool).get("error.type") for tool in tools] == [
        None,
        "trimode.policy.errors.InvalidArguments",
        "LookupError",
    ]
    assert [tool.status.status_code for tool in tools] == [StatusCode.UNSET, StatusCode.ERROR, StatusCode.ERROR]
    assert has(tools[0])["gen_ai.tool.call.id"] == "c1"
    assert "Bonn" not in " ".join(tool.to_json() for tool in tools)


def test_a_tool_shows_content_where_the_switch_says_so(
    reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "SPAN_ONLY")
    with session(reference, redact=lambda text: text.replace("Bonn", "[city]")):
        tm.execute_tool(look, CALL)
        with pytest.raises(LookupError):
            tm.execute_tool(fail, tm.ToolCall(name="fail", arguments={"city": "Bonn"}))
    (tool,), (failed,) = named(spans, "execute_tool look"), named(spans, "execute_tool fail")
    assert json.loads(has(tool)["gen_ai.tool.call.arguments"])["place"] == {"city": "[city]"}
    assert json.loads(has(tool)["gen_ai.tool.call.result"]) == "[city]: 2"
    assert failed.status.description == "no [city]"


def test_an_async_tool_is_current_while_it_runs(reference: Engine, spans: InMemorySpanExporter) -> None:
    async def main() -> list[str]:
        call = tm.ToolCall(name="look_later", arguments={"place": {"city": "Bonn"}})
        with session(reference):
            return list(await asyncio.gather(*(tm.execute_tool(look_later, call) for _ in range(3))))

    assert asyncio.run(main()) == ["Bonn"] * 3
    tools, requests = named(spans, "execute_tool look_later"), named(spans, "http")
    assert len(tools) == len(requests) == 3
    assert all(any(under(request, tool) for tool in tools) for request in requests)
    assert len({request.parent.span_id for request in requests if request.parent}) == 3


def test_inside_a_hosts_inference_span_only_decode_spans_are_added(
    reference: Engine, spans: InMemorySpanExporter
) -> None:
    host = trace.get_tracer("sdk").start_span("chat tri", attributes={"gen_ai.operation.name": "chat"})
    with use_span(host, end_on_exit=True):
        result = reference.generate(messages=ASK, schema=SHORT, step="plan", mode="linear_spec", max_tokens=30)
    decode, found = spans.get_finished_spans()
    assert (decode.name, found.name) == ("decode linear_spec", "chat tri")
    assert under(decode, found)
    assert has(found) == {"gen_ai.operation.name": "chat"}, "a host's span is not written on"
    assert has(decode)["trimode.audit.id"] == result.audit_id
    assert has(decode)["trimode.step.kind"] == "plan"
    assert "trimode.schema.sha256" in has(decode)
    assert not any(key.startswith("gen_ai.") for key in has(decode)), "tokens would count twice"


def test_other_spans_of_a_host_do_not_stand_in_for_an_inference(reference: Engine, spans: InMemorySpanExporter) -> None:
    for operation in ("invoke_agent", "execute_tool", "embeddings"):
        host = trace.get_tracer("sdk").start_span("host", attributes={"gen_ai.operation.name": operation})
        with use_span(host, end_on_exit=True):
            reference.generate("x", max_tokens=1)
    assert len(named(spans, "chat trimode-reference")) == 3


def test_a_failed_session_fails_its_span(reference: Engine, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ZeroDivisionError), session(reference):
        raise ZeroDivisionError
    (agent,) = named(spans, "invoke_agent trip")
    assert (agent.status.status_code, has(agent)["error.type"]) == (StatusCode.ERROR, "ZeroDivisionError")


def test_streams_belong_where_they_were_asked_for(reference: Engine, spans: InMemorySpanExporter) -> None:
    with session(reference, "first"):
        stream = reference.stream(messages=ASK, mode="ar", max_tokens=4)
    with session(reference, "second"):
        list(stream)
    assert not trace.get_current_span().get_span_context().is_valid
    (chat,), (first,) = named(spans, "chat trimode-reference"), named(spans, "invoke_agent first")
    assert under(chat, first)
    assert has(chat)["gen_ai.request.stream"] is True
    assert has(chat)["gen_ai.response.time_to_first_chunk"] > 0


def test_break_cancel_and_error_end_spans_with_their_status(reference: Engine, spans: InMemorySpanExporter) -> None:
    def broken() -> None:
        for event in reference.stream(**LONG):
            raise ZeroDivisionError(event.text)

    async def cancelled() -> None:
        task = asyncio.create_task(reference.agenerate(**LONG))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def left() -> None:
        async with contextlib.aclosing(reference.astream(**LONG)) as stream:
            async for _ in stream:
                return

    with session(reference):
        for event in reference.stream(**LONG):
            assert event.text
            break
        with pytest.raises(ZeroDivisionError):
            broken()
        asyncio.run(cancelled())
        asyncio.run(left())
    chats = named(spans, "chat trimode-reference")
    assert [chat.status.status_code for chat in chats] == [StatusCode.ERROR] * 4
    assert {has(chat)["error.type"] for chat in chats} == {"trimode.engine.errors.CallCancelled"}
    assert named(spans, "invoke_agent trip")[0].status.status_code is StatusCode.UNSET


def test_a_session_in_an_abandoned_generator_ends_and_leaves_nothing(
    reference: Engine, spans: InMemorySpanExporter
) -> None:
    def steps() -> Iterator[int]:
        with session(reference), tm.using(mode="ar"):
            yield reference.generate("x", max_tokens=1).stats.output_tokens

    async def astream() -> AsyncIterator[int]:
        with session(reference, "async"), tm.using(mode="ar"):
            yield (await reference.agenerate("x", max_tokens=1)).stats.output_tokens

    async def main() -> None:
        running = astream()
        async for count in running:
            assert count == 1
            break
        # Closed by another task, whose context is not the one that opened the session.
        await asyncio.create_task(running.aclose())  # type: ignore[attr-defined]

    for count in steps():
        assert count == 1
        break
    asyncio.run(main())
    assert len(named(spans, "invoke_agent trip")) == len(named(spans, "invoke_agent async")) == 1
    with pytest.raises(tm.StepError):
        unit("table")


@tm.step("json", max_tokens=24)
def unit(what: str) -> bool:
    """Is {what} long?"""
    ...
