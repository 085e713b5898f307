"""Spans of the GenAI convention, in the shapes of three exports, become the same recorded call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_calls import PARIS, WEATHER, written

from trimode.integrations.workload.calls import Answer, RecordedCall
from trimode.integrations.workload.logs.reading import read_logs
from trimode.integrations.workload.logs.span_log import NO_CONTENT, NOT_INFERENCE
from trimode.integrations.workload.refusals import LogRefused

ROME = {"type": "tool_call", "id": "1", "name": "weather", "arguments": {"city": "Rome"}}
SAID = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {"role": "assistant", "parts": [ROME]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": {"sky": "blue"}}]},
]  # fmt: skip
WROTE = [
    {
        "role": "assistant",
        "parts": [{"type": "tool_call", "id": "2", "name": "weather", "arguments": {"city": "Paris", "days": 2}}],
        "finish_reason": "tool_call",
    }
]
TOLD: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "big",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.max_tokens": 64,
    "gen_ai.usage.input_tokens": 12,
    "gen_ai.usage.output_tokens": 7,
    "gen_ai.agent.name": "helper",
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
    "gen_ai.input.messages": json.dumps(SAID),
    "gen_ai.output.messages": json.dumps(WROTE),
    "gen_ai.tool.definitions": json.dumps([{"type": "function", **WEATHER}]),
}
BEGIN = 1_790_000_000_000_000_000


def otlp(told: dict[str, Any], snake: bool = False) -> dict[str, Any]:
    """A span as OTLP's JSON has it, or as MLflow's server writes the same message."""

    def typed(value: Any) -> dict[str, Any]:
        kind = {str: "string", int: "int", float: "double"}[type(value)]
        shown = str(value) if kind == "int" else value
        return {f"{kind}_value" if snake else f"{kind}Value": shown}

    names = ("start_time_unix_nano", "end_time_unix_nano") if snake else ("startTimeUnixNano", "endTimeUnixNano")
    return {
        "trace_id" if snake else "traceId": "aa",
        "name": "chat big",
        names[0]: str(BEGIN),
        names[1]: str(BEGIN + 1_500_000_000),
        "attributes": [{"key": key, "value": typed(value)} for key, value in told.items()],
    }


def phoenix(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "U3Bhbjox", "name": "chat big", "context": {"trace_id": "aa", "span_id": "bb"}, "span_kind": "LLM",
        "parent_id": None, "start_time": "2026-11-29T14:00:00.000000+00:00",
        "end_time": "2026-11-29T14:00:01.500000+00:00", "status_code": "OK", "attributes": told, "events": [],
    }  # fmt: skip


def as_kept(value: Any) -> str:
    """An attribute as MLflow keeps it: text that is JSON already is left as it is."""
    return value if isinstance(value, str) and value[:1] in "[{" else json.dumps(value)


def mlflow(told: dict[str, Any]) -> dict[str, Any]:
    """A trace as `Trace.to_json` of MLflow 3.17 writes it: attributes are JSON texts, ids are in base64."""
    span: dict[str, Any] = {
        "trace_id": "F0H9qqNl1nqqatCl12A+GQ==", "span_id": "GAXMm2kwC4E=", "parent_span_id": None, "name": "chat big",
        "start_time_unix_nano": BEGIN, "end_time_unix_nano": BEGIN + 1_500_000_000, "events": [],
        "attributes": {key: as_kept(value) for key, value in {**told, "mlflow.spanType": "CHAT_MODEL"}.items()},
    }  # fmt: skip
    return {"info": {"trace_id": "tr-1"}, "data": {"spans": [span]}}


def exports(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "OTLP": {"resourceSpans": [{"scopeSpans": [{"spans": [otlp(told)]}]}]},
        "Phoenix": {"data": [phoenix(told)], "next_cursor": None},
        "Phoenix, a list": [phoenix(told)],
        "MLflow's server": {"trace": {"trace_info": {}, "spans": [otlp(told, snake=True)]}},
        "MLflow": mlflow(told),
    }


def read(tmp_path: Path, document: Any, indent: int | None = None) -> Any:
    path = tmp_path / "spans.json"
    path.write_text(json.dumps(document, indent=indent))
    return read_logs([path])


@pytest.mark.parametrize("name", exports({}))
@pytest.mark.parametrize("indent", [None, 2])
def test_every_export_gives_the_same_call(tmp_path: Path, name: str, indent: int | None) -> None:
    found: RecordedCall
    (found,) = read(tmp_path, exports(TOLD)[name], indent).calls
    assert (found.kind, found.step, found.model) == ("turn", "helper", "big")
    assert found.loop in ("aa", "F0H9qqNl1nqqatCl12A+GQ==")
    assert [message["role"] for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[2]["tool_calls"][0]["function"]["name"] == "weather"
    assert found.messages[3] == {"role": "tool", "tool_call_id": "1", "content": '{"sky":"blue"}'}
    assert found.answer == PARIS
    assert found.settings == {"temperature": 0.5, "max_tokens": 64}
    assert (found.times.last, found.usage.input, found.usage.output) == (1.5, 12, 7)
    assert found.tools[0]["name"] == "weather"
    assert found.lacks == ()


def test_spans_a_line(tmp_path: Path) -> None:
    other = {**TOLD, "gen_ai.operation.name": "execute_tool"}
    quiet = {key: value for key, value in TOLD.items() if not key.endswith("messages")}
    lines = [exports(one)["OTLP"] for one in (TOLD, other, quiet)]
    found = read_logs([written(tmp_path / "spans.jsonl", *lines)])
    assert [call.id for call in found.calls] == ["spans.jsonl:1:1"]
    assert found.left_out == {NOT_INFERENCE: 1, NO_CONTENT: 1}


def test_tools_that_are_not_described_are_a_lack(tmp_path: Path) -> None:
    told = {key: value for key, value in TOLD.items() if key != "gen_ai.tool.definitions"}
    (found,) = read(tmp_path, exports(told)["Phoenix"]).calls
    assert found.lacks == ("tools",)


def test_our_own_spans_name_step_kind_and_session(tmp_path: Path) -> None:
    wrote = [{"role": "assistant", "parts": [{"type": "text", "content": "Yes."}]}]
    told = {
        **{key: value for key, value in TOLD.items() if "tool" not in key},
        "gen_ai.output.messages": json.dumps(wrote), "trimode.step.name": "talk", "trimode.step.kind": "prose",
        "trimode.session.id": "s",
    }  # fmt: skip
    (found,) = read(tmp_path, exports(told)["MLflow"]).calls
    assert (found.kind, found.step, found.loop, found.answer) == ("prose", "talk", "s", Answer("Yes."))


def test_a_part_that_is_no_text_is_refused(tmp_path: Path) -> None:
    said = [{"role": "user", "parts": [{"type": "blob", "mime_type": "image/png", "data": "..."}]}]
    told = {**TOLD, "gen_ai.input.messages": json.dumps(said)}
    with pytest.raises(LogRefused, match="part of type 'blob'"):
        read(tmp_path, exports(told)["OTLP"])
