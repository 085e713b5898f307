"""Logs as recorded calls: every format, what each does not say, and the line of what cannot be read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_calls import PARIS, SCHEMA, TOTAL, WEATHER, chat_line, written

from trimode.engine.errors import TrimodeError
from trimode.integrations.cli.demo import DATA
from trimode.integrations.workload.calls import Answer, RecordedCall, ToolUse
from trimode.integrations.workload.logs.openai_log import FAILED
from trimode.integrations.workload.logs.reading import UNREADABLE, read_logs
from trimode.integrations.workload.refusals import LogRefused
from trimode.policy.audit.trail import AuditFile

TOOL = {"type": "function", "function": WEATHER}


def only(path: Path) -> RecordedCall:
    (found,) = read_logs([path]).calls
    return found


def test_a_chat_completion(tmp_path: Path) -> None:
    line = chat_line(step="length", session="s1", latency_ms=250, ttft_ms=100)
    found = only(written(tmp_path / "log.jsonl", line))
    assert (found.id, found.kind, found.step, found.loop, found.model) == (
        "log.jsonl:1", "json", "length", "s1", "big-2026",
    )  # fmt: skip
    assert found.schema == SCHEMA
    assert found.settings == {"temperature": 0.0, "max_tokens": 20}
    assert found.answer == Answer(TOTAL)
    assert (found.times.first, found.times.last) == (0.1, 0.25)
    assert (found.usage.input, found.usage.cached, found.usage.output) == (40, 32, 9)
    assert found.lacks == ()


def test_tools_make_a_turn(tmp_path: Path) -> None:
    line = chat_line()
    line["request"] |= {"tools": [TOOL], "tool_choice": "required", "presence_penalty": 0.5}
    made = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris","days":2}'}}
    line["response"]["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [made]}
    found = only(written(tmp_path / "log.jsonl", line))
    assert (found.kind, found.choice, found.answer, found.ignored) == ("turn", "required", PARIS, ("presence_penalty",))


def test_arguments_that_are_no_json_stay_text(tmp_path: Path) -> None:
    line = chat_line()
    made = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    line["response"]["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [made]}
    found = only(written(tmp_path / "log.jsonl", line))
    assert found.answer == Answer(calls=(ToolUse("weather", '{"city":'),))
    assert "tools" in found.lacks


def test_what_a_log_lacks_is_said_of_each_call(tmp_path: Path) -> None:
    bare: dict[str, Any] = {
        "request": {"messages": [{"role": "user", "content": "Hello"}]},
        "response": {"choices": []},
    }
    loose = {"request": {**bare["request"], "response_format": {"type": "json_object"}}, "response": {"choices": []}}
    first, second = read_logs([written(tmp_path / "log.jsonl", bare, loose)]).calls
    assert set(first.lacks) == {"answer", "max_tokens", "temperature", "times", "usage", "loop"}
    assert set(second.lacks) - set(first.lacks) == {"schema"}
    assert first.unusable


def test_batch_files_wrap_bodies_and_failed_calls_are_left_out(tmp_path: Path) -> None:
    line = chat_line()
    wrapped = {"request": {"body": line["request"]}, "response": {"status_code": 200, "body": line["response"]}}
    failed = {"request": line["request"], "response": {"status_code": 429, "body": {"error": {"message": "slow"}}}}
    found = read_logs([written(tmp_path / "log.jsonl", wrapped, failed)])
    assert len(found.calls) == 1
    assert found.left_out == {FAILED: 1}


def test_a_response_of_items(tmp_path: Path) -> None:
    request = {
        "model": "big", "instructions": "Be brief.", "tools": [{"type": "function", **WEATHER}],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city":"Rome"}'},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ],
    }  # fmt: skip
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]},
        {"type": "function_call", "call_id": "d", "name": "weather", "arguments": '{"city":"Paris","days":2}'},
    ]
    usage = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 0}}
    line = {"request": request, "response": {"output": output, "usage": usage}, "conversation_id": "c1", "seconds": 2}
    found = only(written(tmp_path / "log.jsonl", line))
    assert [message["role"] for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.answer == Answer("Sunny.", PARIS.calls)
    assert (found.kind, found.loop, found.usage.output) == ("turn", "c1", 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"request": {"input": "hi", "previous_response_id": "r"}}, "previous_response_id"),
        ({"request": {"input": "hi", "tools": [{"type": "web_search"}]}}, "web_search"),
        ({"response": {"choices": [{"delta": {"content": "a"}}]}}, "chunk of a stream"),
        ({"response": None}, "no 'response'"),
        ({"request": {"messages": "hello"}}, "request.messages"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"response": {"choices": [], "usage": {"prompt_tokens": True}}}, "usage.prompt_tokens"),
        ({"step": 7}, "step=7"),
    ],
)
def test_lines_of_another_shape_are_refused_at_their_place(tmp_path: Path, change: Any, says: str) -> None:
    path = written(tmp_path / "log.jsonl", chat_line(), {**chat_line(), **change})
    with pytest.raises(LogRefused, match=r"log\.jsonl:2: ") as caught:
        read_logs([path])
    assert says in str(caught.value)
    assert caught.value.line == 2
    found = read_logs([path], lenient=True)
    assert (len(found.calls), found.left_out) == (1, {UNREADABLE: 1})


@pytest.mark.parametrize("text", ["", "\n\n", "hello", "[1, 2]", '{"a": 1}', "\x00\x01", '"text"', "{"])
def test_files_of_another_format_are_refused_with_what_is_known(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(LogRefused, match="OTLP"):
        read_logs([path])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(LogRefused, match="UTF-8"):
        read_logs([path])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
parts = st.sampled_from(["request", "response", "step", "session", "seconds", "id"])
keys = st.sampled_from(
    ["messages", "input", "tools", "choices", "output", "usage", "text", "response_format", "temperature", "body"]
)


@given(st.dictionaries(parts, st.dictionaries(keys, json_values, max_size=5) | json_values, min_size=1))
def test_hostile_lines_are_read_or_refused_never_worse(tmp_path_factory: Any, line: dict[str, Any]) -> None:
    line.setdefault("request", {})
    path = written(tmp_path_factory.getbasetemp() / "hostile.jsonl", line)
    with suppress(LogRefused):
        assert all(call.sha256 and isinstance(call.lacks, tuple) for call in read_logs([path]).calls)
    assert len(read_logs([path], lenient=True).calls) <= 1


def test_episodes_name_source_and_kind() -> None:
    found = read_logs([Path(str(DATA / "episodes.jsonl.gz"))])
    assert {call.step.partition(".")[2] for call in found.calls} == {"plan", "tool_call", "json", "prose"}
    assert all(call.answer is not None and call.loop and call.tools is not None for call in found.calls)
    assert all(call.lacks == ("times", "usage") for call in found.calls)


def test_an_episode_file_that_is_broken_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"id": "1", "source": "x", "tools": ["none"], "steps": []}) + "\n")
    with pytest.raises(TrimodeError, match="line 1"):
        read_logs([path])


def test_an_audit_file_keeps_ids_and_schema(tmp_path: Path, recorded: Callable[..., Any]) -> None:
    file = AuditFile(tmp_path / "audit.jsonl", content=True)
    record = recorded("ar", schema=True)
    file.write(record)
    found = only(tmp_path / "audit.jsonl")
    assert (found.prompt_ids, found.schema, found.step) == (record.prompt_ids, record.schema, record.step)
    assert found.answer == Answer(record.text or "")
    assert found.usage.passes == record.counts.forward_passes
    assert found.times.last == 8.0


def test_an_audit_file_without_content_has_nothing_to_ask(tmp_path: Path, recorded: Callable[..., Any]) -> None:
    AuditFile(tmp_path / "audit.jsonl", content=False).write(recorded("ar"))
    found = only(tmp_path / "audit.jsonl")
    assert {"prompt", "answer"} <= set(found.lacks)
    assert "no prompt" in found.unusable


def test_a_broken_audit_line_is_placed(tmp_path: Path, recorded: Callable[..., Any]) -> None:
    path = tmp_path / "audit.jsonl"
    AuditFile(path, content=True).write(recorded("ar"))
    with path.open("a") as file:
        file.write("not a record\n")
    with pytest.raises(LogRefused) as caught:
        read_logs([path])
    assert caught.value.line == 2
