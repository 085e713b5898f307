"""`TrimodeModel` in OpenAI's Agents SDK, on the bundled checkpoint.

The names of tests are rows of docs/integrations.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import pytest
from agents import (
    Agent,
    FunctionTool,
    ModelSettings,
    RunConfig,
    Runner,
    RunResult,
    ToolCallItem,
    exceptions,
    function_tool,
    set_trace_processors,
)
from agents.tracing import GenerationSpanData, TracingProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, Field
from same_agent import SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.openai_agents import TrimodeModel, TrimodeProvider

GREEDY = {"temperature": 0, "max_tokens": 40}
REQUIRED = ModelSettings(tool_choice="required", max_tokens=60)
"""The SDK asks for a call at first, and resets the choice after it."""


class Length(BaseModel):
    """A length."""

    low: int
    unit: str


class Long(BaseModel):
    """An output of 400 tokens and more."""

    digits: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=200, max_length=200)]


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


class Kept(TracingProcessor):
    """Keeps the SDK's own spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_trace_start(self, trace: Any) -> None: ...

    def on_trace_end(self, trace: Any) -> None: ...

    def on_span_start(self, span: Any) -> None: ...

    def on_span_end(self, span: Any) -> None:
        self.spans.append(span)

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


@pytest.fixture(autouse=True)
def kept() -> Kept:
    """The SDK's spans of a test, which otherwise would be sent to its vendor."""
    found = Kept()
    set_trace_processors([found])
    return found


@pytest.fixture
def model(engine: tm.Engine) -> TrimodeModel:
    return TrimodeModel(engine, **GREEDY)


def ran(agent: Agent[None], text: Any, **options: Any) -> RunResult:
    return asyncio.run(Runner.run(agent, text, **options))


def facts_of(run: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = run.raw_responses[0].output[0].provider_data["trimode"]  # type: ignore[union-attr]
    return found


def test_a_turn_with_a_tool_call(model: TrimodeModel) -> None:
    run = ran(Agent("w", model=model, tools=[weather], model_settings=REQUIRED), "Weather in Rome?")
    (call,) = [item.raw_item for item in run.new_items if isinstance(item, ToolCallItem)]
    assert call.name == "weather"  # type: ignore[union-attr]
    assert len(call.call_id) == 9  # type: ignore[union-attr]
    assert run.final_output


def test_tool_choice(model: TrimodeModel) -> None:
    for choice, calls in (("auto", 0), ("none", 0), ("required", 1), ("weather", 1)):
        settings = ModelSettings(tool_choice=choice, max_tokens=40)
        run = ran(Agent("w", model=model, tools=[weather], model_settings=settings), "Weather in Rome?")
        assert sum(isinstance(item, ToolCallItem) for item in run.new_items) == calls


def test_call_ids_are_unique_over_a_run(model: TrimodeModel) -> None:
    settings = ModelSettings(tool_choice="required", max_tokens=60)
    agent = Agent("w", model=model, tools=[weather], model_settings=settings, reset_tool_choice=False)
    with pytest.raises(exceptions.MaxTurnsExceeded) as found:
        ran(agent, "Weather in Rome?", max_turns=4)
    assert found.value.run_data is not None
    ids = [item.raw_item.call_id for item in found.value.run_data.new_items if isinstance(item, ToolCallItem)]  # type: ignore[union-attr]
    assert len(set(ids)) == len(ids) == 4


def test_handoffs(engine: tm.Engine, model: TrimodeModel) -> None:
    last = Agent("last", model=model)
    first = Agent("first", handoffs=[last], model_settings=REQUIRED)
    run = ran(first, "Weather in Rome?", run_config=RunConfig(model_provider=TrimodeProvider(engine)))
    assert run.last_agent is last


def test_a_stream_is_the_turn_in_pieces(model: TrimodeModel) -> None:
    agent = Agent("w", model=model, tools=[weather], model_settings=REQUIRED)
    whole = ran(agent, "Weather in Rome?")

    async def streamed() -> tuple[list[str], Any]:
        run = Runner.run_streamed(agent, "Weather in Rome?")
        pieces = [
            event.data.delta async for event in run.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]  # fmt: skip
        return pieces, run

    pieces, run = asyncio.run(streamed())
    assert len(pieces) > 2
    assert "".join(pieces) == run.final_output == whole.final_output
    assert run.context_wrapper.usage.output_tokens == whole.context_wrapper.usage.output_tokens
    assert facts_of(run)["kind"] == "turn"


def test_output_of_a_type_is_constrained(model: TrimodeModel) -> None:
    run = ran(Agent("reader", model=model, output_type=Length), "How long is it?")
    assert isinstance(run.final_output, Length)
    assert facts_of(run)["guarantee"] == "grammar"


def test_the_kind_follows_from_what_is_asked(model: TrimodeModel) -> None:
    asked: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"name": "helper"}, ("helper", "prose")),
        ({"name": "planner"}, ("planner", "plan")),
        ({"name": "helper", "tools": [weather]}, ("helper", "turn")),
        ({"name": "reader", "output_type": Length}, ("reader", "json")),
    ]
    for options, expected in asked:
        found = facts_of(ran(Agent(model=model, **options), "Hello"))
        assert (found["step"], found["kind"]) == expected


def test_using_and_own_settings_name_the_step(model: TrimodeModel) -> None:
    own = ModelSettings(extra_args={"step": "inner", "kind": "prose", "mode": "ar"})
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        outer = facts_of(ran(Agent("helper", model=model), "Hello"))
        inner = facts_of(ran(Agent("helper", model=model, model_settings=own), "Hello"))
    assert (outer["step"], outer["kind"], outer["mode"]) == ("outer", "plan", "quadratic_spec")
    assert (inner["step"], inner["kind"], inner["mode"]) == ("inner", "prose", "ar")


def test_usage_and_facts(model: TrimodeModel) -> None:
    agent = Agent("helper", model=model, model_settings=ModelSettings(extra_args={"mode": "linear_spec"}))
    ran(agent, "A question that is asked twice")
    run = ran(agent, "A question that is asked twice")
    usage, facts = run.context_wrapper.usage, facts_of(run)
    assert usage.input_tokens_details.cached_tokens > 0
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0
    assert facts["modes"] == ["linear_spec"]


def test_errors_are_the_frameworks_own(model: TrimodeModel) -> None:
    with pytest.raises(exceptions.UserError, match="context") as found:
        ran(Agent("helper", model=model), "long " * 9000)
    assert isinstance(found.value.__cause__, tm.PromptTooLong)
    for settings in (ModelSettings(extra_args={"top_z": 3}), ModelSettings(presence_penalty=0.5)):
        with pytest.raises(exceptions.UserError, match=r"top_z|presence_penalty"):
            ran(Agent("helper", model=model, model_settings=settings), "Hello")


def test_the_budget_of_a_session_holds(model: TrimodeModel, engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        ran(Agent("helper", model=model), "Hello")
        with pytest.raises(exceptions.AgentsException, match="tokens are spent"):
            ran(Agent("helper", model=model), "Hello")


def test_cancelling_stops_the_decoding(model: TrimodeModel, engine: tm.Engine, trail: Path) -> None:
    agent = Agent("helper", model=model, output_type=Long, model_settings=ModelSettings(max_tokens=700))

    async def left() -> None:
        run = Runner.run_streamed(agent, "Tell me everything")
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                run.cancel()
        if run.run_loop_task is not None:
            await asyncio.wait([run.run_loop_task])

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(left())
    (call,) = calls_in(trail)
    assert call.error == "trimode.engine.errors.CallCancelled"


def test_a_timeout_is_the_frameworks_own(model: TrimodeModel) -> None:
    agent = Agent("helper", model=model, model_settings=ModelSettings(timeout=1e-9, max_tokens=400))
    with pytest.raises(exceptions.ModelTimeoutError):
        ran(agent, "Tell me everything")


def test_one_span_tree_and_one_record_a_call(
    model: TrimodeModel, engine: tm.Engine, trail: Path, spans: InMemorySpanExporter, kept: Kept
) -> None:
    with tm.session(engine, trace=f"file:{trail}", agent="host"):
        ran(Agent("helper", model=model, tools=[weather], model_settings=REQUIRED), "Weather in Rome?")
    calls = calls_in(trail)
    generations = [span for span in kept.spans if isinstance(span.span_data, GenerationSpanData)]
    chats = [span for span in spans.get_finished_spans() if span.name.startswith("chat")]
    assert len(calls) == len(chats) == len(generations) == 2
    assert [(chat.attributes or {})["trimode.audit.id"] for chat in chats] == [call.call for call in calls]
    assert [span.span_data.usage["completion_tokens"] for span in generations] == [
        call.counts.output_tokens for call in calls if call.counts
    ]


def test_the_record_has_the_hosts_run(model: TrimodeModel, engine: tm.Engine, trail: Path, kept: Kept) -> None:
    with tm.session(engine, trace=f"file:{trail}"):
        ran(Agent("helper", model=model), "Hello", run_config=RunConfig(group_id="thread 7"))
        ran(Agent("helper", model=model), "Hello", run_config=RunConfig(tracing_disabled=True))
    traced, untraced = (call.host for call in calls_in(trail))
    assert traced is not None
    assert (traced.framework, traced.conversation, traced.agent) == ("openai-agents", "thread 7", "helper")
    assert {traced.run} == {span.trace_id for span in kept.spans}
    assert untraced is not None
    assert (untraced.run, untraced.conversation, untraced.agent) == ("", "", "helper")


def test_the_same_agent_gives_the_same_tokens(engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    def described(one: dict[str, Any]) -> FunctionTool:
        async def invoked(_: Any, __: str) -> str:
            return recorded(one["name"])

        return FunctionTool(one["name"], one["description"], one["parameters"], invoked, strict_json_schema=False)

    agent = Agent(STEP, instructions=SYSTEM, model=TrimodeModel(engine, **SETTINGS), tools=[*map(described, TOOLS)],
                  model_settings=ModelSettings(tool_choice="required"))  # fmt: skip
    items: list[Any] = []
    with tm.session(engine, trace=f"file:{trail}", content=True):
        for user in USERS:
            items = ran(agent, [*items, {"role": "user", "content": user}]).to_input_list()
    found = calls_in(trail)
    assert {call.step for call in found} == {STEP}
    assert tokens(found) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(found) == 2 * len(USERS)
