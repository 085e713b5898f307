"""`/v1/responses` and `/v1/messages`: the same asks in other documents, and streams in their documented order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import ASK, MODEL, TOOL, Scripted, chat, client_of, play
from starlette.testclient import TestClient

from trimode.engine.errors import EngineStopped
from trimode.integrations.server.asks.events import Event, Started, TextDelta
from trimode.policy.calls import Engine, FakeEngine

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
FLAT = {"type": "function", **TOOL["function"]}
CLIENT_TOOL = {"name": "calculator", "input_schema": TOOL["function"]["parameters"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
SPOKEN = 'I see. <tool_call>\n{"name":"calculator","arguments":{"expression":"1"}}\n</tool_call>'


@pytest.fixture(scope="module")
def client(reference: Engine) -> Iterator[TestClient]:
    with client_of(reference) as made:
        yield made


@pytest.fixture
def speaking() -> Iterator[TestClient]:
    with client_of(FakeEngine({"agenerate": SPOKEN}), name=MODEL) as made:
        yield made


def response(client: TestClient, **more: Any) -> Any:
    reply = client.post(RESPONSES, json={"model": MODEL, "input": ASK, "max_output_tokens": 60, **more})
    assert reply.status_code == 200, reply.text
    return reply


def message(client: TestClient, **more: Any) -> Any:
    reply = client.post(MESSAGES, json={"model": MODEL, "messages": ASK, "max_tokens": 60, **more})
    assert reply.status_code == 200, reply.text
    return reply


def events(text: str) -> list[tuple[str, Any]]:
    """Names and documents of a stream; each document's type is its event's name."""
    found = []
    for block in text.strip().split("\n\n"):
        if block == "data: [DONE]":
            continue
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert found[-1][1]["type"] == found[-1][0]
    return found


def test_all_apis_say_the_same(client: TestClient) -> None:
    told = client.post("/v1/chat/completions", json=chat(max_completion_tokens=60)).json()
    text = told["choices"][0]["message"]["content"]
    found = response(client).json()
    assert found["output"][0]["content"][0]["text"] == text
    assert message(client).json()["content"] == [{"type": "text", "text": text, "citations": None}]
    assert found["usage"]["output_tokens"] == told["usage"]["completion_tokens"]
    assert response(client, input=ASK[0]["content"]).json()["output"][0]["content"][0]["text"] == text


def test_a_format_is_held(client: TestClient) -> None:
    text = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    found = response(client, text=text).json()
    assert set(json.loads(found["output"][0]["content"][0]["text"])) == {"a"}
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert set(json.loads(message(client, output_config=config).json()["content"][0]["text"])) == {"a"}


def test_what_is_cut_says_so(client: TestClient) -> None:
    found = response(client, max_output_tokens=2).json()
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert message(client, max_tokens=2).json()["stop_reason"] == "max_tokens"
    wide = message(client, max_tokens=10**6).json()
    assert any("lowered" in note for note in wide["trimode"]["notes"])


def test_thinking_is_a_block(client: TestClient) -> None:
    found = response(client, reasoning={"effort": "low"}).json()
    assert found["output"][0]["type"] == "reasoning"
    assert found["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    thought = message(client, thinking={"type": "enabled", "budget_tokens": 8}).json()
    assert thought["content"][0]["type"] == "thinking"
    again = [*ASK, {"role": "assistant", "content": thought["content"]}, *ASK]
    assert "thinking" in message(client, messages=again).json()["trimode"]["notes"][0]
    items = [*ASK, *found["output"], *ASK]
    assert "thinking" in response(client, input=items).json()["trimode"]["notes"][0]


def test_calls_and_their_answers(speaking: TestClient) -> None:
    found = response(speaking, tools=[FLAT], max_output_tokens=100).json()
    said, call = found["output"]
    assert said["content"][0]["text"] == "I see."
    assert (call["type"], call["name"], json.loads(call["arguments"])) == (
        "function_call", "calculator", {"expression": "1"},
    )  # fmt: skip
    answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "1"}
    assert response(speaking, input=[*ASK, *found["output"], answer], tools=[FLAT], max_output_tokens=100).json()["id"]
    made = message(speaking, tools=[CLIENT_TOOL], max_tokens=100).json()
    assert (made["stop_reason"], [one["type"] for one in made["content"]]) == ("tool_use", ["text", "tool_use"])
    result = {"type": "tool_result", "tool_use_id": made["content"][1]["id"], "content": "1"}
    again = [*ASK, {"role": "assistant", "content": made["content"]}, {"role": "user", "content": [result]}]
    assert message(speaking, messages=again, tools=[CLIENT_TOOL], max_tokens=100).json()["content"]


def test_order_of_a_response_s_events(speaking: TestClient) -> None:
    whole = response(speaking, tools=[FLAT], max_output_tokens=100).json()
    found = events(response(speaking, tools=[FLAT], max_output_tokens=100, stream=True).text)
    assert [told["sequence_number"] for _, told in found] == list(range(len(found)))
    names = [name for name, _ in found if not name.endswith(".delta")]
    assert names == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.output_item.added", "response.function_call_arguments.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    arguments = [told["delta"] for name, told in found if name == "response.function_call_arguments.delta"]
    assert "".join(arguments) == whole["output"][1]["arguments"]
    text = [told["delta"] for name, told in found if name == "response.output_text.delta"]
    assert "".join(text).strip() == "I see."
    assert [item["type"] for item in found[-1][1]["response"]["output"]] == ["message", "function_call"]


def test_order_of_a_message_s_events(speaking: TestClient) -> None:
    found = events(message(speaking, tools=[CLIENT_TOOL], max_tokens=100, stream=True).text)
    names = [name for name, _ in found if name != "content_block_delta"]
    assert names == [
        "message_start", "content_block_start", "content_block_stop", "content_block_start", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert found[0][1]["message"]["usage"]["input_tokens"] > 0
    pieces = [told["delta"]["partial_json"] for _, told in found if "partial_json" in told.get("delta", {})]
    assert json.loads("".join(pieces)) == {"expression": "1"}
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


def test_errors_amid_a_stream_have_the_shape_of_the_api(client: TestClient, reference: Engine) -> None:
    del client
    begun: list[Event] = [Started(choice=0, record="r", mode="ar", kind="prose"), TextDelta(choice=0, text="a")]
    with client_of(reference) as own:
        play(own, Scripted(begun, EngineStopped(ZeroDivisionError("secret"))))
        failed = events(response(own, stream=True).text)[-1]
        assert (failed[0], failed[1]["response"]["status"]) == ("response.failed", "failed")
        assert events(message(own, stream=True).text)[-1][0] == "error"


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (RESPONSES, {"store": True}, "store"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (RESPONSES, {"max_output_tokens": 10**6}, "input"),
        (RESPONSES, {"speed": 1}, "speed"),
        (RESPONSES, {"seed": 1}, "seed"),
        (RESPONSES, {"stop": "x"}, "stop"),
        (RESPONSES, {"max_output_tokens": 10**400, "reasoning": {"effort": "low"}}, "input"),
    ],
)
def test_refusals(client: TestClient, path: str, more: dict[str, Any], param: str) -> None:
    reply = client.post(path, json={"model": MODEL, "input": ASK, **more})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_a_call_comes_back_as_openai_s_client_writes_it_out(client: TestClient) -> None:
    made = {"type": "function_call", "call_id": "abc", "name": "calculator", "arguments": '{"expression":"1"}'}
    told = {"type": "function_call_output", "call_id": "abc", "output": "1"}
    for neutral in ({"async_": None}, {"async": False}, {"caller": None, "namespace": None, "status": "completed"}):
        response(client, input=[*ASK, {**made, **neutral}, told])
    reply = client.post(RESPONSES, json={"model": MODEL, "input": [*ASK, {**made, "async": True}, told]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[1].async")


def test_refusals_name_nothing_of_ours(client: TestClient) -> None:
    reply = client.post(RESPONSES, json={"model": MODEL, "input": [{"type": "item_reference", "id": "x"}]})
    assert reply.json()["error"]["message"].startswith("input[0]: type 'item_reference': expected one of 'message', ")
    reply = client.post(RESPONSES, json={"model": MODEL, "input": []})
    assert "at least 1 item" in reply.json()["error"]["message"]
    reply = client.post(RESPONSES, json={"model": MODEL, "input": "x", "seed": 1})
    assert reply.json()["error"]["code"] == "unknown_parameter"


def test_a_failed_tool_is_noted(client: TestClient) -> None:
    used = {"type": "tool_use", "id": "abc", "name": "calculator", "input": {"expression": "1"}}
    told = {"type": "tool_result", "tool_use_id": "abc", "content": "no such thing", "is_error": True}
    said = [*ASK, {"role": "assistant", "content": [used]}, {"role": "user", "content": [told]}]
    assert "is_error" in message(client, messages=said).json()["trimode"]["notes"][0]


def test_stored_responses_are_not_there(client: TestClient) -> None:
    reply = client.get(f"{RESPONSES}/resp_1")
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "store")


def test_refusals_in_anthropic_s_shape(client: TestClient) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    for more in ({}, {"max_tokens": 0}, {"max_tokens": 9, "messages": [{"role": "user", "content": [image]}]}):
        reply = client.post(MESSAGES, json={"model": MODEL, "messages": ASK, **more})
        found = reply.json()
        assert (reply.status_code, found["type"]) == (400, "error")
        assert found["error"]["type"] == "invalid_request_error"
    other = client.post(MESSAGES, json={"model": "other", "messages": ASK, "max_tokens": 9}).json()
    assert other["error"]["type"] == "not_found_error"


def test_tokens_are_counted(client: TestClient) -> None:
    counted = client.post(f"{MESSAGES}/count_tokens", json={"model": MODEL, "messages": ASK}).json()["input_tokens"]
    usage = message(client).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
