"""trimode as a provider of litellm, on the bundled checkpoint. The names of tests are rows of docs/integrations.md."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from same_agent import LONG, SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.litellm import register
from trimode.policy.audit import HostRun

MODEL = "trimode/bundled"
ASKED = [{"role": "user", "content": "Weather in Rome?"}]
LONG_FORMAT = {"type": "json_schema", "json_schema": {"name": "digits", "schema": LONG}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


class Length(BaseModel):
    """A length."""

    low: int
    unit: str


@pytest.fixture(autouse=True)
def registered(engine: tm.Engine) -> Iterator[None]:
    """The engine of the tests as litellm's model."""
    register(engine, temperature=0, max_tokens=40)
    yield
    litellm.custom_provider_map = []


def asked(messages: list[Any] = ASKED, **options: Any) -> Any:
    return litellm.completion(model=MODEL, messages=messages, **options)


def told(found: Any) -> dict[str, Any]:
    facts: dict[str, Any] = found.choices[0].message.provider_specific_fields["trimode"]
    return facts


def test_a_turn_with_a_tool_call() -> None:
    found = asked(tools=[WEATHER], tool_choice="required")
    (call,) = found.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert len(call.id) == 9
    assert found.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert asked([*ASKED, found.choices[0].message, result], tools=[WEATHER]).choices[0].message.content


def test_tool_choice() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for choice, calls in (("auto", 0), ("none", 0), ("required", 1), (named, 1)):
        message = asked(tools=[WEATHER], tool_choice=choice).choices[0].message
        assert len(message.tool_calls or []) == calls


def test_a_stream_is_the_turn_in_pieces() -> None:
    for options in ({}, {"tools": [WEATHER], "tool_choice": "required"}):
        whole = asked(**options)
        chunks = [*asked(stream=True, stream_options={"include_usage": True}, **options)]
        joined = litellm.stream_chunk_builder(chunks)
        assert len(chunks) > 2
        assert (joined.choices[0].message.content or None) == whole.choices[0].message.content
        for one, other in zip(
            joined.choices[0].message.tool_calls or [], whole.choices[0].message.tool_calls or [], strict=True
        ):
            assert (one.function.name, one.function.arguments) == (other.function.name, other.function.arguments)
        assert joined.choices[0].finish_reason == whole.choices[0].finish_reason
        assert joined.usage.completion_tokens == whole.usage.completion_tokens

    async def streamed() -> str:
        stream = await litellm.acompletion(model=MODEL, messages=ASKED, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(streamed()) == asked().choices[0].message.content


def test_output_of_a_type_is_constrained() -> None:
    found = asked([{"role": "user", "content": "How long is it?"}], response_format=Length)
    assert isinstance(Length.model_validate_json(found.choices[0].message.content), Length)
    assert told(found)["guarantee"] == "grammar"


def test_the_kind_follows_from_what_is_asked() -> None:
    cases: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({}, ("chat", "prose")),
        ({"metadata": {"agent_name": "planner"}}, ("planner", "plan")),
        ({"tools": [WEATHER]}, ("chat", "turn")),
        ({"response_format": Length, "metadata": {"generation_name": "reader"}}, ("reader", "json")),
    ]
    for options, expected in cases:
        found = told(asked(**options))
        assert (found["step"], found["kind"]) == expected


def test_using_and_own_settings_name_the_step() -> None:
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        outer, inner = told(asked()), told(asked(step="inner", kind="prose", mode="ar"))
    assert (outer["step"], outer["kind"], outer["mode"]) == ("outer", "plan", "quadratic_spec")
    assert (inner["step"], inner["kind"], inner["mode"]) == ("inner", "prose", "ar")


def test_usage_and_facts() -> None:
    messages = [{"role": "user", "content": "A question that is asked twice"}]
    asked(messages)
    found = asked(messages, mode="linear_spec")
    facts, usage = told(found), found.usage
    assert usage.prompt_tokens_details.cached_tokens > 0
    assert facts["modes"] == ["linear_spec"]
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0
    assert usage.completion_tokens_details.accepted_prediction_tokens == facts["accepted"]


def test_errors_are_the_frameworks_own() -> None:
    with pytest.raises(litellm.ContextWindowExceededError) as found:
        asked([{"role": "user", "content": "long " * 9000}])
    assert isinstance(found.value.__cause__, tm.PromptTooLong)
    with pytest.raises(litellm.BadRequestError, match="unknown argument 'top_z'"):
        asked(top_z=3)
    with pytest.raises(litellm.BadRequestError, match="image"):
        asked([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])


def test_the_budget_of_a_session_holds(engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        asked()
        with pytest.raises(litellm.BadRequestError, match="tokens are spent"):
            asked()


def test_cancelling_stops_the_decoding(engine: tm.Engine, trail: Path) -> None:
    long = {"response_format": LONG_FORMAT, "max_tokens": 700}
    with tm.session(engine, trace=f"file:{trail}"):
        stream = asked(stream=True, **long)
        next(stream)
        stream.close()

    async def cancelled() -> None:
        while engine.live:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(litellm.acompletion(model=MODEL, messages=ASKED, **long))
        while engine.live == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(cancelled())
    assert [call.error for call in calls_in(trail)] == ["trimode.engine.errors.CallCancelled"] * 2


def test_a_timeout_is_the_frameworks_own() -> None:
    with pytest.raises(litellm.Timeout):
        asked(timeout=1e-9, max_tokens=400)
    with pytest.raises(litellm.Timeout):
        asyncio.run(litellm.acompletion(model=MODEL, messages=ASKED, timeout=1e-9, max_tokens=400))


def test_one_span_tree_and_one_record_a_call(engine: tm.Engine, trail: Path, spans: InMemorySpanExporter) -> None:
    with tm.session(engine, trace=f"file:{trail}", agent="host"):
        asked()
    (call,) = calls_in(trail)
    found = spans.get_finished_spans()
    (chat,) = [span for span in found if span.name.startswith("chat")]
    (host,) = [span for span in found if span.name.startswith("invoke_agent")]
    assert (chat.attributes or {})["trimode.audit.id"] == call.call
    assert chat.parent is not None
    assert chat.parent.span_id == host.context.span_id
    assert all(span.parent and span.parent.span_id == chat.context.span_id for span in found if "decode" in span.name)


def test_the_record_has_the_hosts_run(engine: tm.Engine, trail: Path) -> None:
    with tm.session(engine, trace=f"file:{trail}"):
        asked(metadata={"agent_name": "helper"}, litellm_trace_id="run 3", litellm_session_id="thread 7")
        asked()
    named, alone = (call.host for call in calls_in(trail))
    assert named == HostRun(framework="litellm", run="run 3", conversation="thread 7", agent="helper")
    assert alone is not None
    assert (alone.conversation, alone.agent) == ("", "")
    assert alone.run


def test_the_same_agent_gives_the_same_tokens(engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": one} for one in TOOLS]
    metadata = {"agent_name": STEP}
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    with tm.session(engine, trace=f"file:{trail}", content=True):
        for user in USERS:
            messages.append({"role": "user", "content": user})
            for choice in ("required", "auto"):
                found = asked(messages, tools=tools, tool_choice=choice, metadata=metadata, **SETTINGS)
                messages.append(found.choices[0].message)
                messages += [
                    {"role": "tool", "tool_call_id": one.id, "content": recorded(str(one.function.name))}
                    for one in found.choices[0].message.tool_calls or []
                ]
    found = calls_in(trail)
    assert {call.step for call in found} == {STEP}
    assert tokens(found) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(found) == 2 * len(USERS)
