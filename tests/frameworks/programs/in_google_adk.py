"""`TrimodeLlm` in Google's Agent Development Kit, on the bundled checkpoint.

The names of tests are rows of docs/integrations.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import pytest
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.events import Event
from google.adk.models import LlmRequest
from google.adk.runners import InMemoryRunner
from google.adk.tools import BaseTool
from google.genai import errors, types
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, Field
from same_agent import SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.google_adk import TrimodeLlm
from trimode.policy.audit import HostRun

SSE = RunConfig(streaming_mode=StreamingMode.SSE)
Before = Callable[[Any, LlmRequest], None]


class Length(BaseModel):
    """A length."""

    low: Annotated[int, Field(ge=0, le=99)]
    unit: Annotated[str, Field(max_length=8)]


class Long(BaseModel):
    """An output of 400 tokens and more."""

    digits: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=200, max_length=200)]


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def config(**options: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**{"temperature": 0, "max_output_tokens": 40, **options})


def choosing(mode: str, *names: str) -> types.ToolConfig:
    found = types.FunctionCallingConfig(mode=mode, allowed_function_names=[*names] or None)
    return types.ToolConfig(function_calling_config=found)


def call_first(_: Any = None, llm_request: LlmRequest | None = None, **__: Any) -> None:
    """A call at first, then talk."""
    assert llm_request is not None
    answered = (llm_request.contents[-1].parts or [types.Part()])[-1].function_response
    llm_request.config.tool_config = choosing("AUTO" if answered else "ANY")


async def events(agent: LlmAgent, *texts: str, run_config: RunConfig | None = None) -> list[Event]:
    """What happened in a session with these messages of its user."""
    runner = InMemoryRunner(agent=agent, app_name="app")
    session = await runner.session_service.create_session(app_name="app", user_id="user")
    found = list[Event]()
    for text in texts:
        message = types.UserContent(text)
        run = runner.run_async(user_id="user", session_id=session.id, new_message=message, run_config=run_config)
        found += [event async for event in run]
    return found


def ran(
    model: TrimodeLlm, text: str = "Weather in Rome?", *, run_config: RunConfig | None = None, **options: Any
) -> Any:
    """The events of one message."""
    given = {"name": "helper", "model": model, "generate_content_config": config(), **options}
    return asyncio.run(events(LlmAgent(**given), text, run_config=run_config))


def told(found: list[Event]) -> dict[str, Any]:
    metadata = found[0].custom_metadata
    assert metadata is not None
    facts: dict[str, Any] = metadata["trimode"]
    return facts


def text_of(event: Event) -> str:
    return "".join(part.text or "" for part in (event.content and event.content.parts) or ())


@pytest.fixture(scope="session")
def provider() -> TracerProvider:
    """ADK's tracers belong to the process's provider, which can be set once."""
    found = TracerProvider()
    trace.set_tracer_provider(found)
    return found


@pytest.fixture
def model(engine: tm.Engine) -> TrimodeLlm:
    return TrimodeLlm(engine=engine)


def test_a_turn_with_a_tool_call(model: TrimodeLlm) -> None:
    found = ran(model, tools=[weather], before_model_callback=call_first)
    (call,) = found[0].get_function_calls()
    assert call.name == "weather"
    assert set(call.args) == {"city"}
    assert len(call.id) == 9
    assert text_of(found[-1])


def test_tool_choice(model: TrimodeLlm) -> None:
    for choice, calls in ((("AUTO",), 0), (("NONE",), 0), (("ANY",), 1), (("ANY", "weather"), 1)):
        asked = LlmRequest(contents=[types.UserContent("Weather in Rome?")], config=config(tools=[DECLARED]))
        asked.config.tool_config = choosing(*choice)
        (found,) = asyncio.run(responses(model, asked))
        assert len(found.get_function_calls()) == calls


DECLARED = types.Tool(function_declarations=[types.FunctionDeclaration(
    name="weather", description="The weather of a city.",
    parameters=types.Schema(type=types.Type.OBJECT, required=["city"], properties={
        "city": types.Schema(type=types.Type.STRING, nullable=True), "day": types.Schema(type=types.Type.INTEGER),
    }),
)])  # fmt: skip
"""A tool in google-genai's own kind of schema."""


async def responses(model: TrimodeLlm, asked: LlmRequest, stream: bool = False) -> list[Any]:
    return [one async for one in model.generate_content_async(asked, stream)]


def test_a_stream_is_the_turn_in_pieces(model: TrimodeLlm) -> None:
    for options in ({}, {"tools": [weather], "before_model_callback": call_first}):
        whole = ran(model, **options)
        found = ran(model, run_config=SSE, **options)
        partial, last = [one for one in found if one.partial], [one for one in found if not one.partial]
        assert len(partial) > 2
        assert "".join(map(text_of, partial)) == text_of(last[-1]) == text_of(whole[-1])
        assert len(last) == len(whole)
        assert last[-1].usage_metadata.candidates_token_count == whole[-1].usage_metadata.candidates_token_count


def test_output_of_a_type_is_constrained(model: TrimodeLlm) -> None:
    found = ran(model, "How long is it?", output_schema=Length)
    assert isinstance(Length.model_validate_json(text_of(found[-1])), Length)
    assert told(found)["guarantee"] == "grammar"
    found = ran(model, output_schema=Length, tools=[weather], before_model_callback=call_first)
    assert isinstance(Length.model_validate_json(text_of(found[-1])), Length)
    assert [one.name for event in found for one in event.get_function_calls()] == ["weather"]


def test_the_kind_follows_from_what_is_asked(model: TrimodeLlm) -> None:
    asked: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"name": "helper"}, ("helper", "prose")),
        ({"name": "trip_planner"}, ("trip_planner", "plan")),
        ({"name": "helper", "tools": [weather]}, ("helper", "turn")),
        ({"name": "reader", "output_schema": Length}, ("reader", "json")),
    ]
    for options, expected in asked:
        found = told(ran(model, "Hello", **options))
        assert (found["step"], found["kind"]) == expected


def test_using_and_own_settings_name_the_step(model: TrimodeLlm, engine: tm.Engine) -> None:
    own = TrimodeLlm(engine=engine, step="inner", kind="prose", settings={"mode": "ar"})
    body = config(http_options=types.HttpOptions(extra_body={"step": "asked", "kind": "prose", "mode": "linear_spec"}))
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        found = [told(ran(model)), told(ran(own)), told(ran(model, generate_content_config=body))]
    expected = [("outer", "plan", "quadratic_spec"), ("inner", "prose", "ar"), ("asked", "prose", "linear_spec")]
    assert [(one["step"], one["kind"], one["mode"]) for one in found] == expected


def test_usage_and_facts(engine: tm.Engine) -> None:
    model = TrimodeLlm(engine=engine, settings={"mode": "linear_spec"})
    ran(model, "A question that is asked twice")
    found = ran(model, "A question that is asked twice")
    facts, usage = told(found), found[-1].usage_metadata
    assert usage.cached_content_token_count > 0
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count
    assert facts["modes"] == ["linear_spec"]
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0


def test_errors_are_the_frameworks_own(model: TrimodeLlm, engine: tm.Engine) -> None:
    with pytest.raises(errors.ClientError) as found:
        ran(model, "long " * 9000)
    assert (found.value.code, found.value.status) == (400, "INVALID_ARGUMENT")
    assert isinstance(found.value.__cause__, tm.PromptTooLong)
    with pytest.raises(errors.ClientError, match="unknown argument 'top_z'"):
        ran(TrimodeLlm(engine=engine, settings={"top_z": 3}))
    with pytest.raises(errors.ClientError, match="presence_penalty"):
        ran(model, generate_content_config=config(presence_penalty=0.5))
    image = types.Content(role="user", parts=[types.Part.from_bytes(data=b"", mime_type="image/png")])
    with pytest.raises(errors.ClientError, match="inline_data"):
        asyncio.run(responses(model, LlmRequest(contents=[image])))


def test_the_budget_of_a_session_holds(model: TrimodeLlm, engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        ran(model)
        with pytest.raises(errors.ClientError, match="tokens are spent"):
            ran(model)


def test_cancelling_stops_the_decoding(model: TrimodeLlm, engine: tm.Engine, trail: Path) -> None:
    asked = LlmRequest(
        contents=[types.UserContent("Tell me everything")], config=config(max_output_tokens=700, response_schema=Long)
    )

    async def left() -> None:
        async with aclosing(model.generate_content_async(asked, stream=True)) as stream:
            await anext(stream)

    async def cancelled() -> None:
        while engine.live:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(responses(model, asked))
        while engine.live == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(left())
        asyncio.run(cancelled())
    assert [call.error for call in calls_in(trail)] == ["trimode.engine.errors.CallCancelled"] * 2


def test_a_timeout_is_the_frameworks_own(model: TrimodeLlm) -> None:
    late = config(http_options=types.HttpOptions(timeout=1), max_output_tokens=700)
    with pytest.raises(errors.ServerError) as found:
        ran(model, "Tell me everything", generate_content_config=late, output_schema=Long)
    assert (found.value.code, found.value.status) == (504, "DEADLINE_EXCEEDED")


def test_one_span_tree_and_one_record_a_call(
    model: TrimodeLlm, engine: tm.Engine, trail: Path, spans: InMemorySpanExporter
) -> None:
    with tm.session(engine, trace=f"file:{trail}"):
        ran(model)
    (call,) = calls_in(trail)
    found = spans.get_finished_spans()
    named = {span.context.span_id: span for span in found}
    inferences = [
        span for span in found if (span.attributes or {}).get("gen_ai.operation.name") in ("chat", "generate_content")
    ]
    decodes = [span for span in found if span.name.startswith("decode")]
    assert len(inferences) == 1
    assert decodes
    assert all(span.parent and span.parent.span_id == inferences[0].context.span_id for span in decodes)
    assert all((span.attributes or {})["trimode.audit.id"] == call.call for span in decodes)
    (root,) = [span for span in found if span.parent is None]
    assert len({span.context.trace_id for span in found}) == 1
    assert all(span is root or (span.parent and span.parent.span_id in named) for span in found)


def test_the_record_has_the_hosts_run(
    model: TrimodeLlm, engine: tm.Engine, trail: Path, spans: InMemorySpanExporter
) -> None:
    with tm.session(engine, trace=f"file:{trail}"):
        (event,) = ran(model)
    (call,) = calls_in(trail)
    (around,) = [one for one in spans.get_finished_spans() if one.name.startswith("generate_content")]
    known = around.attributes or {}
    assert call.host == HostRun(
        framework="google-adk", run=event.invocation_id, conversation=str(known["gen_ai.conversation.id"]),
        agent="helper", trace=f"{around.context.trace_id:032x}", span=f"{around.context.span_id:016x}",
    )  # fmt: skip


class Recorded(BaseTool):
    """A tool of the episode, with its recorded result."""

    def __init__(self, one: dict[str, Any]) -> None:
        super().__init__(name=one["name"], description=one["description"])
        self.parameters = one["parameters"]

    def _get_declaration(self) -> types.FunctionDeclaration:
        return types.FunctionDeclaration(
            name=self.name, description=self.description, parameters_json_schema=self.parameters
        )

    async def run_async(self, **_: Any) -> Any:
        return recorded(self.name)


def test_the_same_agent_gives_the_same_tokens(engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    def same(callback_context: Any, llm_request: LlmRequest) -> None:
        """ADK adds the agent's name to the instruction; here it is that of the other frameworks."""
        llm_request.config.system_instruction = SYSTEM
        call_first(callback_context, llm_request)

    settings = config(temperature=SETTINGS["temperature"], max_output_tokens=SETTINGS["max_tokens"])
    agent = LlmAgent(name=STEP, model=TrimodeLlm(engine=engine), tools=[*map(Recorded, TOOLS)],
                     before_model_callback=same, generate_content_config=settings)  # fmt: skip
    with tm.session(engine, trace=f"file:{trail}", content=True):
        asyncio.run(events(agent, *USERS))
    found = calls_in(trail)
    assert {call.step for call in found} == {STEP}
    assert tokens(found) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(found) == 2 * len(USERS)
