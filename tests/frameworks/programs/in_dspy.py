"""trimode as an engine of dspy, on the bundled checkpoint. The names of tests are rows of docs/integrations.md."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy import lm15
from dspy.utils import exceptions
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from same_agent import LONG, SETTINGS, STEP, SYSTEM, TOOLS, USERS, calls_in, recorded, tokens, tokens_without_framework

import trimode as tm
from trimode.integrations.frameworks.dspy import AsyncTrimodeEngine, TrimodeEngine, trimode_lm
from trimode.policy.audit import HostRun

LONG_FORMAT = {"type": "json_schema", "schema": LONG}


class Route(dspy.Signature):  # type: ignore[misc, unused-ignore]
    """Say what is asked for."""

    request: str = dspy.InputField()
    topic: Literal["weather", "flight", "hotel"] = dspy.OutputField()


class Trip(dspy.Module):  # type: ignore[misc, unused-ignore]
    """A program of two predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.planner = dspy.Predict("request -> plan: bool")
        self.reader = dspy.ChainOfThought(Route)

    def forward(self, request: str) -> Any:
        self.planner(request=request)
        return self.reader(request=request, config={"max_tokens": 300})


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


WEATHER = lm15.FunctionTool("weather", "The weather of a city.", {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
})  # fmt: skip


@pytest.fixture(autouse=True)
def lm(engine: tm.Engine) -> Iterator[dspy.LM]:
    """The model of the tests, in the form of JSON, which is constrained."""
    found = trimode_lm(engine, temperature=0, max_tokens=60)
    with dspy.context(lm=found, adapter=dspy.JSONAdapter()):
        yield found


def request(text: str = "Weather in Rome?", tools: Any = (), **config: Any) -> lm15.Request:
    asked = {"temperature": 0, "max_tokens": 60, **config}
    return lm15.Request("m", (lm15.Message.user(text),), tools=tools, config=lm15.Config(**asked))


def told(lm: dspy.LM, at: int = -1) -> dict[str, Any]:
    """What is told of a past call."""
    facts: dict[str, Any] = lm.history[at]["response"].provider_data["trimode"]
    return facts


def test_a_turn_with_a_tool_call(engine: tm.Engine) -> None:
    asked = request(tools=(WEATHER,), tool_choice=lm15.ToolChoice("required"))
    found = TrimodeEngine(engine).complete(asked)
    (call,) = found.tool_calls
    assert call.name == "weather"
    assert set(call.input) == {"city"}
    assert len(call.id) == 9
    assert found.finish_reason == "tool_call"
    predict = dspy.Predict("question, tools: list[dspy.Tool] -> calls: dspy.ToolCalls")
    with dspy.context(lm=trimode_lm(engine, temperature=0, max_tokens=60)):
        calls = predict(question="Weather in Rome?", tools=[dspy.Tool(weather)], config={"tool_choice": "required"})
    assert [one.name for one in calls.calls.tool_calls] == ["weather"]


def test_tool_choice(engine: tm.Engine) -> None:
    for mode, allowed, calls in (("auto", (), 0), ("none", (), 0), ("required", (), 1), ("required", ("weather",), 1)):
        asked = request(tools=(WEATHER,), tool_choice=lm15.ToolChoice(mode, allowed))
        assert len(TrimodeEngine(engine).complete(asked).tool_calls) == calls


def test_a_stream_is_the_turn_in_pieces(engine: tm.Engine) -> None:
    sync, asynchronous = TrimodeEngine(engine), AsyncTrimodeEngine(engine)
    required = lm15.ToolChoice("required")
    for asked in (
        request(),
        request(tools=(WEATHER,), tool_choice=required),
        request(response_format=LONG_FORMAT, max_tokens=450),
    ):
        whole, events = sync.complete(asked), [*sync.stream(asked)]
        joined = lm15.materialize_response(iter(events), asked)
        assert len(events) > 3
        assert joined.text == whole.text
        assert joined.usage.output_tokens == whole.usage.output_tokens
        assert joined.finish_reason == whole.finish_reason
        assert [(one.name, one.input) for one in joined.tool_calls] == [(o.name, o.input) for o in whole.tool_calls]
        other = asyncio.run(lm15.amaterialize_response(asynchronous.stream(asked), asked))
        assert other.text == whole.text

    async def streamed() -> list[Any]:
        program = dspy.streamify(
            dspy.Predict("question -> answer: bool"), include_final_prediction_in_output_stream=True
        )
        return [piece async for piece in program(question="Weather in Rome?")]

    assert isinstance(asyncio.run(streamed())[-1], dspy.Prediction)


def test_output_of_a_type_is_constrained(lm: dspy.LM) -> None:
    assert dspy.Predict(Route)(request="Is it raining?").topic in ("weather", "flight", "hotel")
    assert told(lm)["guarantee"] == "grammar"


def test_the_kind_follows_from_what_is_asked(lm: dspy.LM) -> None:
    Trip()(request="A room in Rome")
    dspy.Predict(Route)(request="A room in Rome")
    lm("Hello")
    lm(lm15.Request(lm.model, (lm15.Message.user("Hello"),), tools=(WEATHER,)))
    found = [(told(lm, at)["step"], told(lm, at)["kind"]) for at in range(5)]
    named = [("planner", "json"), ("reader", "json"), ("Route", "json")]
    assert found == [*named, ("chat", "prose"), ("chat", "turn")]


def test_using_and_own_settings_name_the_step(lm: dspy.LM, engine: tm.Engine) -> None:
    own = trimode_lm(engine, settings={"step": "inner", "kind": "prose", "mode": "ar"})
    with tm.using(step="outer", kind="plan", mode="quadratic_spec"):
        lm("Hello")
        own("Hello")
        config = lm15.Config(extensions={"step": "asked", "kind": "prose", "mode": "linear_spec"})
        lm(lm15.Request(lm.model, (lm15.Message.user("Hello"),), config=config))
    found = [(one["step"], one["kind"], one["mode"]) for one in (told(lm, 0), told(own), told(lm))]
    expected = [("outer", "plan", "quadratic_spec"), ("inner", "prose", "ar"), ("asked", "prose", "linear_spec")]
    assert found == expected


def test_usage_and_facts(engine: tm.Engine) -> None:
    lm = trimode_lm(engine, settings={"mode": "linear_spec"}, temperature=0, max_tokens=40)
    for _ in range(2):
        lm("A question that is asked twice")
    facts, usage = told(lm), lm.history[-1]["response"].usage
    assert usage.cache_read_tokens > 0
    assert lm.history[-1]["usage"]["completion_tokens"] == usage.output_tokens > 0
    assert facts["modes"] == ["linear_spec"]
    assert facts["drafted"] == facts["accepted"] + facts["rejected"] > 0


def test_errors_are_the_frameworks_own(lm: dspy.LM, engine: tm.Engine) -> None:
    with pytest.raises(exceptions.ContextWindowExceededError) as found:
        lm("long " * 9000)
    assert isinstance(found.value.__cause__.__cause__, tm.PromptTooLong)  # type: ignore[union-attr, unused-ignore]
    with pytest.raises(exceptions.LMInvalidRequestError, match="unknown argument 'top_z'"):
        trimode_lm(engine, settings={"top_z": 3})("Hello")
    with pytest.raises(exceptions.LMUnsupportedFeatureError, match="presence_penalty"):
        lm("Hello", presence_penalty=0.5)
    image = lm15.Message.user([lm15.ImagePart("image/png", url="https://example.org/a.png")])
    with pytest.raises(exceptions.LMUnsupportedFeatureError, match="image"):
        lm(lm15.Request(lm.model, (image,)))


def test_the_budget_of_a_session_holds(lm: dspy.LM, engine: tm.Engine) -> None:
    with tm.session(engine, budget=tm.Budget(tokens=1)):
        lm("Hello")
        with pytest.raises(exceptions.LMBillingError, match="tokens are spent"):
            lm("Hello")


def test_cancelling_stops_the_decoding(engine: tm.Engine, trail: Path) -> None:
    asked = request(response_format=LONG_FORMAT, max_tokens=700)
    with tm.session(engine, trace=f"file:{trail}"):
        stream = TrimodeEngine(engine).stream(asked)
        next(stream)
        next(stream)
        stream.close()  # type: ignore[attr-defined, unused-ignore]

    async def cancelled() -> None:
        while engine.live:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(AsyncTrimodeEngine(engine).complete(asked))
        while engine.live == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with tm.session(engine, trace=f"file:{trail}"):
        asyncio.run(cancelled())
    assert [call.error for call in calls_in(trail)] == ["trimode.engine.errors.CallCancelled"] * 2


def test_a_timeout_is_the_frameworks_own(engine: tm.Engine) -> None:
    lm = trimode_lm(engine, settings={"timeout": 1e-9}, max_tokens=400)
    with pytest.raises(exceptions.LMTimeoutError):
        lm("Tell me everything")
    with pytest.raises(exceptions.LMTimeoutError):
        asyncio.run(lm.acall("Tell me everything"))


def test_one_span_tree_and_one_record_a_call(
    lm: dspy.LM, engine: tm.Engine, trail: Path, spans: InMemorySpanExporter
) -> None:
    with tm.session(engine, trace=f"file:{trail}", agent="host"):
        dspy.Predict(Route)(request="Is it raining?")
    (call,) = calls_in(trail)
    found = spans.get_finished_spans()
    (chat,) = [span for span in found if span.name.startswith("chat")]
    (host,) = [span for span in found if span.name.startswith("invoke_agent")]
    assert (chat.attributes or {})["trimode.audit.id"] == call.call == lm.history[-1]["response"].id
    assert chat.parent is not None
    assert chat.parent.span_id == host.context.span_id
    assert all(span.parent and span.parent.span_id == chat.context.span_id for span in found if "decode" in span.name)


def test_the_record_has_the_hosts_run(engine: tm.Engine, trail: Path) -> None:
    """dspy has no ids of runs; the predictor is named."""
    with tm.session(engine, trace=f"file:{trail}"):
        dspy.Predict(Route)(request="Is it raining?")
    (call,) = calls_in(trail)
    assert call.host == HostRun(framework="dspy", agent="Route")


def test_the_same_agent_gives_the_same_tokens(lm: dspy.LM, engine: tm.Engine, trail: Path, tmp_path: Path) -> None:
    described = tuple(lm15.FunctionTool(one["name"], one["description"], one["parameters"]) for one in TOOLS)
    messages: list[lm15.Message] = []
    with tm.session(engine, trace=f"file:{trail}", content=True), tm.using(step=STEP):
        for user in USERS:
            messages.append(lm15.Message.user(user))
            for mode in ("required", "auto"):
                config = lm15.Config(**SETTINGS, tool_choice=lm15.ToolChoice(mode))
                found = lm(lm15.Request(lm.model, tuple(messages), SYSTEM, described, config))
                messages.append(found.message)
                messages += [lm15.Message.tool(one.id, recorded(one.name)) for one in found.tool_calls]
    calls = calls_in(trail)
    assert {call.step for call in calls} == {STEP}
    assert tokens(calls) == tokens_without_framework(engine, tmp_path / "alone.jsonl")
    assert len(calls) == 2 * len(USERS)


def test_an_optimizer_compiles_a_program(lm: dspy.LM, engine: tm.Engine, trail: Path) -> None:
    said = {"Is it raining?": "weather", "A plane to Rome": "flight", "A room, please": "hotel", "Two nights": "hotel"}
    examples = [dspy.Example(request=one, topic=topic).with_inputs("request") for one, topic in said.items()]
    optimizer = dspy.BootstrapFewShot(metric=lambda one, found, _=None: one.topic == found.topic)
    with tm.session(engine, trace=f"file:{trail}"):
        compiled = optimizer.compile(dspy.Predict(Route), trainset=examples)
        before = len(calls_in(trail))
        assert compiled(request="A hotel with a pool").topic == "hotel"
    assert compiled.demos
    assert any(getattr(demo, "augmented", False) for demo in compiled.demos)
    calls = calls_in(trail)
    assert before >= len(examples)
    assert len(calls) == before + 1
    assert {call.step for call in calls} == {"Route"}
    assert calls[-1].counts is not None
    assert lm.history[-1]["messages"][1:-1]


def test_a_program_is_saved_and_loaded(lm: dspy.LM, tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    saved = dspy.Predict(Route)
    saved.lm = trimode_lm(settings={"mode": "ar"}, temperature=0, max_tokens=60)
    saved.save(path)
    loaded = dspy.Predict(Route)
    loaded.load(path, allow_unsafe_lm_state=True)
    assert loaded(request="Is it raining?").topic == saved(request="Is it raining?").topic
    assert told(loaded.lm)["mode"] == "ar"
    assert json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(TypeError, match="source of its checkpoint"):
        lm.dump_state()
