"""`TrimodeModel` in pydantic-ai, on the bundled checkpoint. The names of tests are rows of docs/integrations.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSelectionContext, RunContext, Tool, exceptions
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import ImageUrl, ModelMessage, ModelRequest, ModelResponse, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from same_agent import LONG, SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.pydantic_ai import TrimodeModel, TrimodeModelSettings
from trimode.integrations.frameworks.pydantic_ai_selection import SelectDecoding

GREEDY = TrimodeModelSettings(temperature=0, max_tokens=40)


class Length(BaseModel):
    """A length."""

    low: int
    unit: str


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture
def model(engine: tm.Engine) -> TrimodeModel:
    return TrimodeModel(engine, settings=GREEDY)


def call_first(run: RunContext[Any]) -> ModelSettings:
    """A call at first, then talk: also where the conversation had calls before this run."""
    return ModelSettings(tool_choice="required" if run.run_step < 2 else "auto")


def told(model: TrimodeModel, **options: Any) -> dict[str, Any]:
    """What is told of the first call of an agent's run."""
    with tm.session(model.engine):
        found = Agent(model, **options).run_sync("Hello").response.provider_details
    assert found is not None
    return found


def test_a_turn_with_a_tool_call(model: TrimodeModel) -> None:
    run = Agent(model, tools=[weather], model_settings=call_first).run_sync("Weather in Rome?")
    (call,) = [part for one in run.all_messages() for part in one.parts if isinstance(part, ToolCallPart)]
    assert call.tool_name == "weather"
    assert set(call.args_as_dict()) == {"city"}
    assert len(call.tool_call_id) == 9
    assert run.output


def test_tool_choice(model: TrimodeModel) -> None:
    for choice, calls in (("auto", 0), ("none", 0), (["weather"], 1)):
        agent = Agent(model, tools=[weather], model_settings=lambda run, choice=choice: ModelSettings(
            tool_choice=choice if run.run_step < 2 else "auto"))  # fmt: skip
        assert agent.run_sync("Weather in Rome?").usage.tool_calls == calls


def test_a_stream_is_the_turn_in_pieces(model: TrimodeModel) -> None:
    agent = Agent(model, tools=[weather], model_settings=call_first)
    whole = agent.run_sync("Weather in Rome?")

    async def streamed() -> tuple[list[str], str, int]:
        async with agent.run_stream("Weather in Rome?") as run:
            pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
            return pieces, await run.get_output(), run.usage.output_tokens

    pieces, output, counted = asyncio.run(streamed())
    assert len(pieces) > 2
    assert "".join(pieces) == output == whole.output
    assert counted == whole.usage.output_tokens


def test_output_of_a_type_is_constrained(model: TrimodeModel) -> None:
    run = Agent(model, output_type=Length).run_sync("How long is it?")
    assert isinstance(run.output, Length)
    assert run.response.provider_details is not None
    assert run.response.provider_details["guarantee"] == "grammar"


def test_the_kind_follows_from_what_is_asked(model: TrimodeModel) -> None:
    asked: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"name": "helper"}, ("helper", "prose")),
        ({"name": "planner"}, ("planner", "plan")),
        ({"name": "helper", "tools": [weather]}, ("helper", "turn")),
        ({"name": "reader", "output_type": Length}, ("reader", "json")),
    ]
    for options, expected in asked:
        found = told(model, **options)
        assert (found["step"], found["kind"]) == expected


def test_using_and_own_settings_name_the_step(model: TrimodeModel) -> None:
    own = TrimodeModelSettings(trimode_step="inner", trimode_kind="prose", trimode_mode="ar")
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        outer, inner = told(model, name="helper"), told(model, name="helper", model_settings=own)
    assert (outer["step"], outer["kind"], outer["mode"]) == ("outer", "plan", "quadratic_spec")
    assert (inner["step"], inner["kind"], inner["mode"]) == ("inner", "prose", "ar")


def test_a_hook_sets_the_mode_of_each_request(model: TrimodeModel) -> None:
    def choose(context: ModelSelectionContext[Any]) -> dict[str, Any]:
        return {"mode": "ar" if context.run_step < 2 else "quadratic_spec", "max_tokens": 30}

    agent = Agent(tools=[weather], model_settings=call_first, capabilities=[SelectDecoding(model, choose)])
    run = agent.run_sync("Weather in Rome?")
    facts = [one.provider_details for one in run.all_messages() if isinstance(one, ModelResponse)]
    assert [one["modes"] for one in facts if one] == [["ar"], ["quadratic_spec"]]


def test_usage_and_facts(model: TrimodeModel) -> None:
    agent = Agent(model, model_settings=TrimodeModelSettings(trimode_mode="linear_spec"))
    agent.run_sync("A question that is asked twice")
    run = agent.run_sync("A question that is asked twice")
    facts, usage = run.response.provider_details, run.response.usage
    assert facts is not None
    assert usage.cache_read_tokens > 0
    assert usage.details["drafted"] == facts["drafted"] == facts["accepted"] + facts["rejected"] > 0
    assert facts["modes"] == ["linear_spec"]
    assert run.response.provider_name == "trimode"


def test_errors_are_the_frameworks_own(model: TrimodeModel) -> None:
    agent = Agent(model)
    with pytest.raises(exceptions.ModelContextWindowExceededError) as found:
        agent.run_sync("long " * 9000)
    assert isinstance(found.value.__cause__, tm.PromptTooLong)
    with pytest.raises(exceptions.ModelRequestRejectedError, match="exact"):
        agent.run_sync("Hello", model_settings=TrimodeModelSettings(trimode_mode="diffusion", trimode_exact=True))
    with pytest.raises(exceptions.UserError):
        agent.run_sync(["Look", ImageUrl("https://example.org/a.png")])
    for setting in (ModelSettings(presence_penalty=0.5), ModelSettings(extra_body={"a": 1})):
        with pytest.warns(exceptions.UnsupportedSettingWarning, match=next(iter(setting))):
            agent.run_sync("Hello", model_settings=setting)


def test_the_budget_of_a_session_holds(model: TrimodeModel, engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        Agent(model).run_sync("Hello")
        with pytest.raises(exceptions.ModelQuotaExceededError, match="tokens are spent"):
            Agent(model).run_sync("Hello")


def test_cancelling_stops_the_decoding(model: TrimodeModel, engine: tm.Engine, trail: Path) -> None:
    asked = ModelRequestParameters(output_mode="native", output_object=OutputObjectDefinition(json_schema=LONG))
    settings, messages = ModelSettings(max_tokens=700), [ModelRequest.user_text_prompt("Tell me everything")]

    async def left() -> None:
        async with model_request_stream(
            model, messages, model_settings=settings, model_request_parameters=asked
        ) as stream:
            await anext(aiter(stream))
            await stream.cancel()
            assert stream.get().state == "interrupted"

    async def cancelled() -> None:
        while engine.live:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(
            model_request(model, messages, model_settings=settings, model_request_parameters=asked)
        )
        while engine.live == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(left())
        asyncio.run(cancelled())
    assert [call.error for call in calls_in(trail)] == ["trimode.engine.errors.CallCancelled"] * 2


def test_a_timeout_is_the_frameworks_own(model: TrimodeModel) -> None:
    with pytest.raises(exceptions.ModelTimeoutError):
        Agent(model).run_sync("Tell me everything", model_settings=ModelSettings(timeout=1e-9, max_tokens=400))
    with pytest.raises(exceptions.ModelRequestTimeout):
        Agent(model).run_sync("Tell me all", model_settings=ModelSettings(request_timeout=1e-9, max_tokens=400))


def test_one_span_tree_and_one_record_a_call(
    model: TrimodeModel, engine: tm.Engine, trail: Path, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    agent = Agent(model, name="helper")
    agent.instrument = InstrumentationSettings(tracer_provider=provider, include_content=False)
    with tm.session(engine, trace=f"file:{trail}"):
        agent.run_sync("Hello")
    (call,) = calls_in(trail)
    found = spans.get_finished_spans()
    inferences = [span for span in found if (span.attributes or {}).get("gen_ai.operation.name") == "chat"]
    decodes = [span for span in found if span.name.startswith("decode")]
    assert len(inferences) == 1
    assert decodes
    assert all(span.parent and span.parent.span_id == inferences[0].context.span_id for span in decodes)
    assert all((span.attributes or {})["trimode.audit.id"] == call.call for span in decodes)


def test_the_record_has_the_hosts_run(
    model: TrimodeModel, engine: tm.Engine, trail: Path, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    agent = Agent(model, name="helper")
    agent.instrument = InstrumentationSettings(tracer_provider=provider, include_content=False)
    with tm.session(engine, trace=f"file:{trail}"):
        run = agent.run_sync("Hello", conversation_id="thread 7")
    (call,) = calls_in(trail)
    (chat,) = [one for one in spans.get_finished_spans() if one.name.startswith("chat")]
    assert call.host is not None
    assert (call.host.framework, call.host.agent) == ("pydantic-ai", "helper")
    assert (call.host.run, call.host.conversation) == (run.run_id, "thread 7")
    assert (call.host.trace, call.host.span) == (f"{chat.context.trace_id:032x}", f"{chat.context.span_id:016x}")


def test_the_same_agent_gives_the_same_tokens(engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    def described(one: dict[str, Any]) -> Tool[None]:
        name = one["name"]
        return Tool.from_schema(lambda **_: recorded(name), name, one["description"], one["parameters"])

    agent = Agent(TrimodeModel(engine, settings=ModelSettings(**SETTINGS)), name=STEP, system_prompt=SYSTEM,
                  tools=[*map(described, TOOLS)], model_settings=call_first)  # fmt: skip
    messages: list[ModelMessage] = []
    with tm.session(engine, trace=f"file:{trail}", content=True):
        for user in USERS:
            messages = agent.run_sync(user, message_history=messages).all_messages()
    found = calls_in(trail)
    assert {call.step for call in found} == {STEP}
    assert tokens(found) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(found) == 2 * len(USERS)
    assert isinstance(messages[0], ModelRequest)
