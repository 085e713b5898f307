"""`ChatTrimode` in LangChain and LangGraph, on the bundled checkpoint.

The names of tests are rows of docs/integrations.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core import exceptions
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.tools import StructuredTool, tool
from langchain_core.tracers.context import collect_runs
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from same_agent import LONG, SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.langchain import ChatTrimode
from trimode.integrations.frameworks.langchain_middleware import DecodeByNode


class Length(BaseModel):
    """A length."""

    low: int
    unit: str


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture
def model(engine: tm.Engine) -> ChatTrimode:
    return ChatTrimode(engine=engine, temperature=0, max_tokens=40)


def test_a_turn_with_a_tool_call(model: ChatTrimode) -> None:
    found = model.bind_tools([weather], tool_choice="any").invoke("Weather in Rome?")
    (call,) = found.tool_calls
    assert call["name"] == "weather"
    assert set(call["args"]) == {"city"}
    assert len(str(call["id"])) == 9
    assert found.response_metadata["finish_reason"] == "tool_calls"


def test_tool_choice(model: ChatTrimode) -> None:
    for choice, calls in (("auto", 0), ("none", 0), ("any", 1), ("weather", 1), (True, 1)):
        assert len(model.bind_tools([weather], tool_choice=choice).invoke("Weather in Rome?").tool_calls) == calls
    with pytest.raises(exceptions.ModelInvalidRequestError, match="expected one of auto, none, required, weather"):
        model.bind_tools([weather], tool_choice="other").invoke("Weather in Rome?")


def test_a_stream_is_the_turn_in_pieces(model: ChatTrimode) -> None:
    for one in (model, model.bind_tools([weather], tool_choice="any")):
        whole, chunks = one.invoke("Weather in Rome?"), [*one.stream("Weather in Rome?")]
        joined = chunks[0]
        for chunk in chunks[1:]:
            joined += chunk
        assert isinstance(joined, AIMessageChunk)
        assert len(chunks) > 2
        assert joined.content == whole.content
        assert [(call["name"], call["args"]) for call in joined.tool_calls] == [
            (call["name"], call["args"]) for call in whole.tool_calls
        ]
        assert joined.usage_metadata is not None


def test_output_of_a_type_is_constrained(model: ChatTrimode) -> None:
    assert isinstance(model.with_structured_output(Length).invoke("How long is it?"), Length)
    found = model.with_structured_output(Length.model_json_schema(), include_raw=True, strict=True).invoke(
        "How long is it?"
    )
    assert set(found["parsed"]) == {"low", "unit"}
    assert found["raw"].response_metadata["guarantee"] == "grammar"
    agent = create_agent(model, [], response_format=Length)
    assert isinstance(agent.invoke({"messages": [HumanMessage("How long?")]})["structured_response"], Length)


def test_the_kind_follows_from_what_is_asked(model: ChatTrimode) -> None:
    def told(found: AIMessage) -> tuple[str, str]:
        return found.response_metadata["step"], found.response_metadata["kind"]

    assert told(model.invoke("Hello")) == ("chat", "prose")
    assert told(model.bind_tools([weather]).invoke("Hello")) == ("chat", "turn")
    raw = model.with_structured_output(Length, include_raw=True).invoke("How long?")["raw"]
    assert told(raw) == ("chat", "json")
    graph = StateGraph(MessagesState)
    graph.add_node("planner", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "planner")
    assert told(graph.compile().invoke({"messages": [HumanMessage("Hello")]})["messages"][-1]) == ("planner", "plan")
    agent = create_agent(model, [weather], name="helper")
    assert told(agent.invoke({"messages": [HumanMessage("Hello")]})["messages"][-1]) == ("helper", "turn")


def test_using_and_own_settings_name_the_step(model: ChatTrimode) -> None:
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        told = model.invoke("Hello").response_metadata
        own = model.invoke("Hello", step="inner", kind="prose", mode="ar").response_metadata
    assert (told["step"], told["kind"], told["mode"]) == ("outer", "plan", "quadratic_spec")
    assert (own["step"], own["kind"], own["mode"]) == ("inner", "prose", "ar")


def test_a_middleware_sets_the_mode_by_node(model: ChatTrimode) -> None:
    by_node = DecodeByNode({"fast": {"mode": "quadratic_spec"}}, default={"mode": "ar"})
    for name, mode in (("fast", "quadratic_spec"), ("other", "ar")):
        agent = create_agent(model, [weather], name=name, middleware=[by_node])
        told = agent.invoke({"messages": [HumanMessage("Hello")]})["messages"][-1].response_metadata
        assert (told["step"], told["mode"]) == (name, mode)


def test_usage_and_facts(model: ChatTrimode) -> None:
    model.invoke("A question that is asked twice")
    found = model.invoke("A question that is asked twice", mode="linear_spec")
    assert found.usage_metadata is not None
    assert found.usage_metadata["input_token_details"]["cache_read"] > 0
    facts = found.response_metadata
    assert facts["model_provider"] == "trimode"
    assert facts["modes"] == ["linear_spec"]
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0
    assert facts["acceptance"] == facts["accepted"] / facts["drafted"]


def test_errors_are_the_frameworks_own(model: ChatTrimode) -> None:
    with pytest.raises(exceptions.ContextOverflowError) as found:
        model.invoke("long " * 9000)
    assert isinstance(found.value.__cause__, tm.PromptTooLong)
    with pytest.raises(exceptions.ModelInvalidRequestError, match="unknown argument 'top_z'"):
        model.invoke("Hello", top_z=3)
    with pytest.raises(exceptions.ModelInvalidRequestError, match="image"):
        model.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])])


def test_the_budget_of_a_session_holds(model: ChatTrimode, engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        model.invoke("Hello")
        with pytest.raises(exceptions.ModelError, match="tokens are spent"):
            model.invoke("Hello")


def test_cancelling_stops_the_decoding(model: ChatTrimode, engine: tm.Engine, trail: Path) -> None:
    with tm.session(engine, trace=f"file:{trail}"):
        stream = model.stream("Tell me everything", schema=LONG, max_tokens=700)
        next(stream)
        stream.close()
    (call,) = calls_in(trail)
    assert call.error == "trimode.engine.errors.CallCancelled"

    async def cancelled() -> None:
        while engine.live:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(model.ainvoke("Tell me everything else", schema=LONG, max_tokens=700))
        while engine.live == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(cancelled())
    assert [one.error for one in calls_in(trail)] == [call.error] * 2


def test_a_timeout_is_the_frameworks_own(model: ChatTrimode) -> None:
    for call in (model.invoke, lambda text, **more: asyncio.run(model.ainvoke(text, **more))):
        with pytest.raises(exceptions.ModelTimeoutError):
            call("Tell me everything", timeout=1e-9, max_tokens=400)


def test_one_span_tree_and_one_record_a_call(
    model: ChatTrimode, engine: tm.Engine, trail: Path, spans: InMemorySpanExporter
) -> None:
    agent = create_agent(model, [weather], name="helper")
    with tm.session(engine, trace=f"file:{trail}", agent="host"):
        agent.invoke({"messages": [HumanMessage("Hello")]})
    (call,) = calls_in(trail)
    found = spans.get_finished_spans()
    assert [span.name.split()[0] for span in found if not span.name.startswith("decode")] == ["chat", "invoke_agent"]
    (chat,) = [span for span in found if span.name.startswith("chat")]
    assert chat.attributes is not None
    assert chat.attributes["trimode.audit.id"] == call.call
    assert all(span.parent and span.parent.span_id == chat.context.span_id for span in found if "decode" in span.name)


def test_the_record_has_the_hosts_run(model: ChatTrimode, engine: tm.Engine, trail: Path) -> None:
    agent = create_agent(model, [weather], name="helper", checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread 7"}}
    with tm.session(engine, trace=f"file:{trail}"), collect_runs() as seen:
        agent.invoke({"messages": [HumanMessage("Hello")]}, config)
        model.invoke("Hello", {"run_id": UUID(int=7)})
    inside, alone = (call.host for call in calls_in(trail))
    assert inside is not None
    assert alone is not None
    assert (inside.framework, inside.conversation, inside.agent) == ("langchain", "thread 7", "helper")
    assert inside.run in {str(run.id) for run in every(seen.traced_runs) if run.run_type == "llm"}
    assert alone.run == str(UUID(int=7))


def every(runs: list[Any]) -> list[Any]:
    """Runs and the runs inside them."""
    return [one for run in runs for one in (run, *every(run.child_runs))]


def test_the_same_agent_gives_the_same_tokens(engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    def described(one: dict[str, Any]) -> StructuredTool:
        name = one["name"]
        return StructuredTool.from_function(
            func=lambda **_: recorded(name), name=name, description=one["description"], args_schema=one["parameters"]
        )

    @wrap_model_call
    def call_first(request: Any, handler: Any) -> Any:
        first = isinstance(request.messages[-1], HumanMessage)
        return handler(request.override(tool_choice="any" if first else "auto"))

    model = ChatTrimode(engine=engine, **SETTINGS)
    agent = create_agent(model, [*map(described, TOOLS)], middleware=[call_first], name=STEP,
                         system_prompt=SystemMessage(SYSTEM))  # fmt: skip
    messages: list[Any] = []
    with tm.session(engine, trace=f"file:{trail}", content=True):
        for user in USERS:
            messages = agent.invoke({"messages": [*messages, HumanMessage(user)]})["messages"]
    found = calls_in(trail)
    assert {call.step for call in found} == {STEP}
    assert tokens(found) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(found) == 2 * len(USERS)
