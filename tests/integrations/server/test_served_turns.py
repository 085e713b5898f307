"""Turns over HTTP: text and calls in one answer, as documents and as streams, with ids of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import ASK, TOOL, chat, client_of, documents
from starlette.testclient import TestClient

from trimode.policy.calls import FakeEngine

PATH = "/v1/chat/completions"
NAME = "trimode-fake"
OTHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "auto", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
SPOKEN = (
    'Let me see: naïve 🎉.\n<tool_call>\n{"name":"calculator","arguments":{"expression":"\\"{1}\\""}}\n</tool_call>\n'
    '<tool_call>\n{"name":"auto","arguments":{}}\n</tool_call>'
)
CALLS = [("calculator", {"expression": '"{1}"'}), ("auto", {})]


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(FakeEngine({"agenerate": SPOKEN})) as made:
        yield made


def body(**more: Any) -> dict[str, Any]:
    return chat(model=NAME, tools=[TOOL, OTHER], max_completion_tokens=200, **more)


def test_a_model_speaks_and_calls(client: TestClient) -> None:
    found = client.post(PATH, json=body()).json()
    message = found["choices"][0]["message"]
    assert message["content"] == "Let me see: naïve 🎉."
    made = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]
    assert made == CALLS
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert found["choices"][0]["finish_reason"] == "tool_calls"
    kinds = [one["kind"] for one in found["trimode"]["segments"]]
    assert kinds[:2] == ["prose", "tool_call"]
    assert set(kinds) == {"prose", "tool_call"}


def test_a_stream_tells_the_same(client: TestClient) -> None:
    whole = client.post(PATH, json=body()).json()["choices"][0]["message"]
    chunks = documents(client.post(PATH, json=body(stream=True)).text)[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas).strip() == whole["content"]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    for index, call in enumerate(whole["tool_calls"]):
        own = [piece for piece in pieces if piece["index"] == index]
        assert own[0]["id"]
        assert own[0]["function"]["name"] == call["function"]["name"]
        assert not any("id" in piece or "name" in piece["function"] for piece in own[1:])
        assert "".join(piece["function"]["arguments"] for piece in own) == call["function"]["arguments"]
    assert [piece["index"] for piece in pieces] == sorted(piece["index"] for piece in pieces)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["tool_calls"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "auto"}}])
def test_stop_strings_are_noted_where_calls_alone_are_asked_for(choice: Any) -> None:
    """smolagents sends both, as OpenAI's API allows; a call is no text that could be stopped."""
    with client_of(FakeEngine({"agenerate": {"name": "auto", "arguments": {}}})) as client:
        found = client.post(PATH, json=body(tool_choice=choice, stop=["Observation:"])).json()
    assert found["choices"][0]["message"]["tool_calls"]
    assert [note for note in found["trimode"]["notes"] if note.startswith("stop: no text can be stopped")]


def test_ids_are_new_in_a_conversation(client: TestClient) -> None:
    message = client.post(PATH, json=body()).json()["choices"][0]["message"]
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "2"} for call in message["tool_calls"]]
    again = client.post(PATH, json=body(messages=[*ASK, message, *answers])).json()["choices"][0]["message"]
    ids = [call["id"] for one in (message, again) for call in one["tool_calls"]]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("choice", "parallel", "made"),
    [
        ("none", None, None),
        ({"type": "function", "function": {"name": "auto"}}, None, ["auto"]),
        ("required", False, ["calculator"]),
    ],
)
def test_choices_of_tools(choice: Any, parallel: bool | None, made: list[str] | None) -> None:
    """Which calls a turn may hold: the script says what it may, and fails where it may not."""
    answers = {"auto": {"name": "auto", "arguments": {}}, "calculator": {"name": "calculator", "arguments": {}}}
    answers["calculator"]["arguments"] = {"expression": "1"}
    with client_of(FakeEngine({"agenerate": "no" if made is None else answers[made[0]]})) as client:
        reply = client.post(PATH, json=body(tool_choice=choice, parallel_tool_calls=parallel))
        message = reply.json()["choices"][0]["message"]
        calls = message.get("tool_calls")
        assert (calls and [call["function"]["name"] for call in calls]) == made
        assert message["content"] == ("no" if made is None else None)


NUMBERS = '{"x":[1.50,6003000880000000000000.1,1e2]}'


def test_arguments_come_as_they_were_written() -> None:
    """Neither a stream nor a whole answer rounds a number."""
    parameters = {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    made = f'<tool_call>\n{{"name":"f","arguments":{NUMBERS}}}\n</tool_call>'
    with client_of(FakeEngine({"agenerate": f"So. {made}\n{made}"})) as client:
        asked = chat(model=NAME, tools=[tool], max_completion_tokens=200)
        message = client.post(PATH, json=asked).json()["choices"][0]["message"]
        chunks = documents(client.post(PATH, json={**asked, "stream": True}).text)[:-1]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [NUMBERS] * 2
    pieces = [piece for one in chunks for piece in one["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == NUMBERS * 2
