"""The span contract, frozen: names, kinds, parents and attribute keys of a whole agent loop.

`golden/spans.json` is what others read our spans by. A change there is a change for them: raise `names.SCHEMA_VERSION`
with it. Keys that depend on what the model writes are listed there apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_genai_semconv import GenAISpanComplianceError, assert_genai_span_compliant

import trimode as tm
from trimode.policy.audit.content import SWITCH
from trimode.policy.calls.engine import Engine
from trimode.policy.telemetry import names

GOLDEN = Path(__file__).parents[1] / "golden" / "spans.json"


def weather(city: str) -> dict[str, str]:
    """The weather in a city."""
    return {"city": city, "sky": "clear"}


@tm.step("plan", max_tokens=6)
def plan(goal: str) -> str:
    """Plan for: {goal}"""
    ...


@tm.step("tool_call", tools=[weather], max_tokens=60)
def act(goal: str) -> tm.ToolCall:
    """Act on: {goal}"""
    ...


@tm.step("json", mode="quadratic_spec", block_length=6, max_tokens=24)
def unit(what: str) -> Literal["cm", "m"]:
    """In what unit is {what}?"""
    ...


@tm.step("choice")
def pick(what: str) -> Literal["yes", "no"]:
    """Is {what} long?"""
    ...


@tm.step("prose", mode="diffusion", block_length=8, max_tokens=12)
def say(what: str) -> str:
    """Say something about {what}."""
    ...


def loop(engine: Engine) -> None:
    """Every kind of span that there is: agent, plan, tool, calls of each mode, a stream, a gap, a call that fails."""
    with tm.session(engine, policy=tm.Policy(), agent="trip"):
        plan("a trip")
        tm.execute_tool(weather, tm.ToolCall(name="weather", arguments={"city": "Bonn"}), call_id="1")
        act.result("a trip")
        unit("the table")
        pick("the table")
        say("tables")
        list(engine.stream(messages=[{"role": "user", "content": "Hello"}], mode="ar", max_tokens=4))
        engine.infill("The table is ", " long.", max_tokens=3)
        with pytest.raises(tm.PromptTooLong):
            engine.generate("x", max_tokens=5000)


def shape(spans: list[ReadableSpan], optional: set[str]) -> list[dict[str, Any]]:
    """What the contract freezes, in order of start; spans that look alike are told once."""
    parents = {span.context.span_id: span.name for span in spans if span.context}
    found: list[dict[str, Any]] = []
    for span in sorted(spans, key=lambda one: one.start_time or 0):
        keys = sorted(set(span.attributes or {}) - optional)
        parent = None if span.parent is None else parents[span.parent.span_id]
        told = {
            "name": span.name,
            "kind": span.kind.name,
            "parent": parent,
            "status": span.status.status_code.name,
            "attributes": keys,
        }
        found += [] if told in found else [told]
    return found


@pytest.mark.parametrize("content", ["NO_CONTENT", "SPAN_ONLY"])
def test_the_spans_of_a_loop_are_those_of_the_contract(
    reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv(SWITCH, content)
    loop(reference)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["schema_version"] == names.SCHEMA_VERSION
    found = shape(list(spans.get_finished_spans()), set(golden["optional"]))
    assert found == golden[content], json.dumps(found, indent=1)


def complaints(span: ReadableSpan) -> list[str]:
    """What the checker of the GenAI convention says about a span."""
    try:
        assert_genai_span_compliant(span)
    except GenAISpanComplianceError as error:
        return [*error.violations]
    return []


@pytest.mark.parametrize("content", ["NO_CONTENT", "SPAN_ONLY"])
def test_every_span_is_the_conventions(
    reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """By pytest-genai-semconv, whose list of providers is closed; the convention's is open to other values."""
    monkeypatch.setenv(SWITCH, content)
    loop(reference)
    found = {span.name: complaints(span) for span in spans.get_finished_spans() if not span.name.startswith("decode ")}
    (said,) = found.pop("chat trimode-reference")
    assert said.startswith("gen_ai.provider.name has invalid value 'trimode'; expected one of the well-known values")
    assert found == {"invoke_agent trip": [], "plan trip": [], "execute_tool weather": []}


def test_the_checker_sees_faults(spans: InMemorySpanExporter) -> None:
    tracer = trace.get_tracer_provider().get_tracer("test")
    about = {"gen_ai.operation.name": "execute_tool", "gen_ai.usage.input_tokens": "many"}
    tracer.start_span("execute_tool", attributes=about).end()
    assert len(complaints(spans.get_finished_spans()[0])) == 2


def test_optional_keys_are_ours_to_name() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    known = {value for value in vars(names).values() if isinstance(value, str)}
    told = {key for arm in ("NO_CONTENT", "SPAN_ONLY") for span in golden[arm] for key in span["attributes"]}
    assert told | set(golden["optional"]) <= known
    assert not told & set(golden["optional"])
