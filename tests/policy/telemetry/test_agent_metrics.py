"""What agents and tools are measured by: durations as their spans have them, and each agent's own calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.policy.telemetry.metrics import instruments
from trimode.testing import FakeEngine, in_turn

ECHO = tm.ToolCall(name="echo", arguments={"text": "x"})


def echo(text: str) -> str:
    return text


def fail() -> None:
    raise LookupError


class Measured:
    """The metrics of one test."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def all(self) -> dict[str, Metric]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {one.name: one for one in data.resource_metrics[0].scope_metrics[0].metrics}

    def points(self, name: str, by: str = "gen_ai.agent.name") -> dict[Any, Any]:
        """Points by the value of an attribute."""
        return {(point.attributes or {}).get(by): point for point in self.all()[name].data.data_points}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measured]:
    found = Measured()
    monkeypatch.setattr(metrics, "get_meter", found.provider.get_meter)
    instruments.cache_clear()
    yield found
    instruments.cache_clear()
    found.provider.shutdown()


def test_an_agent_is_measured_as_its_span_is(measured: Measured, spans: InMemorySpanExporter) -> None:
    engine = FakeEngine({"generate": in_turn("x", tm.QueueFull(1, 1, 1))})
    with tm.session(engine, policy=tm.Policy(), agent="trip"):
        engine.generate("x", max_tokens=20)
        list(engine.stream("x", max_tokens=20))
        engine.choice(["a", "b"], "x")
        with pytest.raises(tm.QueueFull):
            engine.generate("x", max_tokens=20)
        tm.execute_tool(echo, ECHO)
        with pytest.raises(LookupError):
            tm.execute_tool(fail, tm.ToolCall(name="fail", arguments={}))
    (agent,) = (span for span in spans.get_finished_spans() if span.name == "invoke_agent trip")
    assert agent.start_time is not None
    assert agent.end_time is not None
    point = measured.points("gen_ai.invoke_agent.duration")["trip"]
    assert point.attributes == {"gen_ai.agent.name": "trip", "gen_ai.request.model": "trimode-fake"}
    assert point.sum == (agent.end_time - agent.start_time) / 1e9
    assert point.explicit_bounds[:3] == (0.1, 0.2, 0.4)
    units = {name: metric.unit for name, metric in measured.all().items()}
    for what, count, unit in (("inference", 4, "{inference_call}"), ("tool", 2, "{tool_call}")):
        point = measured.points(f"gen_ai.invoke_agent.{what}_calls")["trip"]
        assert (point.count, point.sum, point.attributes) == (1, count, {"gen_ai.agent.name": "trip"})
        assert point.explicit_bounds == (1, 2, 4, 8, 16, 32, 64, 128)
        assert units[f"gen_ai.invoke_agent.{what}_calls"] == unit
    assert not any(key == "gen_ai.provider.name" for key in agent.attributes or {})


def test_a_tool_is_measured_as_its_span_is(measured: Measured, spans: InMemorySpanExporter) -> None:
    tm.execute_tool(echo, ECHO)
    with tm.session(FakeEngine(), agent="trip"), pytest.raises(LookupError):
        tm.execute_tool(fail, tm.ToolCall(name="fail", arguments={}))
    points = measured.points("gen_ai.execute_tool.duration", by="gen_ai.tool.name")
    assert points["echo"].attributes == {"gen_ai.tool.name": "echo", "gen_ai.tool.type": "function"}
    assert points["fail"].attributes == {
        "gen_ai.tool.name": "fail",
        "gen_ai.tool.type": "function",
        "gen_ai.agent.name": "trip",
        "error.type": "LookupError",
    }
    for span in spans.get_finished_spans()[:2]:
        tool = (span.attributes or {})["gen_ai.tool.name"]
        assert span.start_time is not None
        assert span.end_time is not None
        assert points[tool].sum == (span.end_time - span.start_time) / 1e9


def test_calls_are_counted_by_the_agent_that_made_them(measured: Measured) -> None:
    engine = FakeEngine()

    def helper(text: str) -> str:
        with tm.session(engine, agent="helper"):
            engine.generate(text, max_tokens=20)
            return engine.generate(text, max_tokens=20).text

    with tm.session(engine, agent="trip"):
        tm.execute_tool(helper, tm.ToolCall(name="helper", arguments={"text": "x"}))
        with tm.session(engine):  # a session without an agent is part of the one around it
            engine.generate("x", max_tokens=20)
    with tm.session(engine, agent="idle"):
        pass
    engine.generate("x", max_tokens=20)
    inferences = measured.points("gen_ai.invoke_agent.inference_calls")
    tools = measured.points("gen_ai.invoke_agent.tool_calls")
    assert {agent: point.sum for agent, point in inferences.items()} == {"trip": 1, "helper": 2, "idle": 0}
    assert {agent: point.sum for agent, point in tools.items()} == {"trip": 1, "helper": 0, "idle": 0}


def test_threads_and_tasks_lose_no_count(measured: Measured) -> None:
    engine = FakeEngine()

    async def tasks() -> None:
        await asyncio.gather(*(engine.agenerate("x", max_tokens=20) for _ in range(10)))

    with tm.session(engine, agent="trip"), ThreadPoolExecutor(4) as pool:
        for work in [pool.submit(copy_context().run, engine.generate, "x", max_tokens=20) for _ in range(20)]:
            work.result()
        asyncio.run(tasks())
    assert measured.points("gen_ai.invoke_agent.inference_calls")["trip"].sum == 30


def test_a_failed_run_says_why(measured: Measured) -> None:
    with pytest.raises(ZeroDivisionError), tm.session(FakeEngine(), agent="trip"):
        raise ZeroDivisionError
    point = measured.points("gen_ai.invoke_agent.duration")["trip"]
    assert (point.attributes or {})["error.type"] == "ZeroDivisionError"
    assert "error.type" not in (measured.points("gen_ai.invoke_agent.tool_calls")["trip"].attributes or {})


def test_a_slow_reader_does_not_slow_the_chunks(measured: Measured) -> None:
    """A chunk's time is when the engine gave it, not when the caller came to read it."""
    engine = FakeEngine({"stream": "Good morning", "astream": "Good morning"})

    async def asynchronous() -> None:
        async for _ in engine.astream("x", max_tokens=20):
            time.sleep(0.1)

    for _ in engine.stream("x", max_tokens=20):
        time.sleep(0.1)
    asyncio.run(asynchronous())
    by, model = "gen_ai.request.model", "trimode-fake"
    later = measured.points("gen_ai.client.inference.time_per_output_chunk", by)[model]
    assert later.count >= 2
    assert later.max < 0.1
    assert measured.points("gen_ai.client.inference.time_to_first_chunk", by)[model].count == 2
