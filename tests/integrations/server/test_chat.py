"""`/v1/chat/completions` at once: what the engine says, in OpenAI's documents; everything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import ASK, MODEL, TOOL, chat, client_of, documents, held_to
from starlette.testclient import TestClient

from trimode.policy.calls import Engine

SCHEMA = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["low"],
    "additionalProperties": False,
}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def client(reference: Engine) -> Iterator[TestClient]:
    with client_of(reference, max_messages=8, max_tools=2, max_choices=4) as made:
        yield made


def answer(client: TestClient, **more: Any) -> dict[str, Any]:
    reply = client.post(PATH, json=chat(**more))
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_the_answer_is_the_engine_s_own(client: TestClient, reference: Engine) -> None:
    own = reference.generate(messages=ASK, temperature=0.8, seed=3, top_p=0.9, max_tokens=20)
    reply = client.post(PATH, json=chat(temperature=0.8, seed=3, top_p=0.9, max_completion_tokens=20))
    found = reply.json()
    choice, usage, done = found["choices"][0], found["usage"], found["trimode"]
    assert choice["message"] == {"role": "assistant", "content": own.text, "refusal": None, "annotations": []}
    assert choice["finish_reason"] == own.finish_reason
    assert usage["completion_tokens"] == own.stats.output_tokens == done["accepted"] + done["corrected"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert (found["object"], found["model"], found["id"][:9]) == ("chat.completion", MODEL, "chatcmpl-")
    assert reply.headers["x-trimode-record"] == done["record"]
    assert reply.headers["x-trimode-mode"] == done["mode"] == own.plan.mode


def test_each_choice_has_the_next_seed(client: TestClient, reference: Engine) -> None:
    found = answer(client, n=3, seed=5, temperature=1.0)
    own = [
        reference.generate(messages=ASK, temperature=1.0, seed=seed, max_tokens=8, step="prose") for seed in (5, 6, 7)
    ]
    assert [choice["message"]["content"] for choice in found["choices"]] == [one.text for one in own]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert found["usage"]["completion_tokens"] == sum(one.stats.output_tokens for one in own)
    assert found["usage"]["prompt_tokens"] == own[0].stats.prompt_tokens
    assert [report["seed"] for report in found["trimode"]["choices"]] == [5, 6, 7]


def test_a_format_is_held(client: TestClient) -> None:
    found = answer(client, response_format=held_to(SCHEMA), max_completion_tokens=40)
    assert set(json.loads(found["choices"][0]["message"]["content"])) == {"low"}
    assert (found["trimode"]["kind"], found["trimode"]["valid"]) == ("json", True)
    anything = answer(client, response_format={"type": "json_object"}, max_completion_tokens=60)
    assert isinstance(json.loads(anything["choices"][0]["message"]["content"]), dict)
    assert answer(client, response_format={"type": "text"})["trimode"]["kind"] == "prose"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculator"}}])
def test_a_call_is_made(client: TestClient, choice: Any) -> None:
    found = answer(client, tools=[TOOL], tool_choice=choice, max_completion_tokens=60)
    message = found["choices"][0]["message"]
    assert found["choices"][0]["finish_reason"] == "tool_calls"
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert (call["type"], call["function"]["name"], bool(call["id"])) == ("function", "calculator", True)
    assert set(json.loads(call["function"]["arguments"])) == {"expression"}
    again = [*ASK, message, {"role": "tool", "tool_call_id": call["id"], "content": "100"}]
    assert answer(client, messages=again, tools=[TOOL], tool_choice="none")["choices"][0]["message"]["content"]


def test_tools_without_a_call(client: TestClient) -> None:
    found = answer(client, tools=[TOOL], tool_choice="none")
    assert "tool_calls" not in found["choices"][0]["message"]
    assert [one["kind"] for one in found["trimode"]["segments"]] == ["prose"]


def test_thinking_is_told_apart(client: TestClient) -> None:
    found = answer(client, reasoning_effort="low", max_completion_tokens=16)
    message = found["choices"][0]["message"]
    assert message["reasoning_content"]
    assert 0 < found["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 5
    said = [*ASK, message, ASK[0]]
    assert "reasoning_content" in answer(client, messages=said)["trimode"]["notes"][0]
    assert "reasoning_content" not in answer(client, reasoning_effort="none")["choices"][0]["message"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"frequency_penalty": None}, {"service_tier": "auto"},
        {"store": False}, {"modalities": ["text"]}, {"repetition_penalty": 1.0}, {"min_p": 0}, {"functions": None},
        {"temperature": None}, {"tools": None}, {"stream": False}, {"n": 1}, {"stop": []}, {"user": "u-1"},
        {"parallel_tool_calls": True}, {"logit_bias": {}}, {"metadata": {"a": "b"}}, {"prompt_cache_key": "k"},
        {"logprobs": False}, {"max_tokens": 8}, {"safety_identifier": "s"},
    ],
)  # fmt: skip
def test_neutral_values_pass(client: TestClient, neutral: dict[str, Any]) -> None:
    assert client.post(PATH, json={**chat(), **neutral}).status_code == 200


NO_TOOL = {"type": "function", "function": {"name": "x"}}
REFUSED: list[tuple[dict[str, Any], str | None, str, int]] = [
    ({"prot": 1}, "prot", "unknown_parameter", 400),
    ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "messages[0].mood", "unknown_parameter", 400),
    ({"tools": [{**TOOL, "x": 1}]}, "tools[0].x", "unknown_parameter", 400),
    ({"trimode": {"speed": 1}}, "trimode.speed", "unknown_parameter", 400),
    ({"model": None}, "model", "missing_required_parameter", 400),
    ({"messages": None}, "messages", "missing_required_parameter", 400),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "missing_required_parameter", 400),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter", 400),
    ({"frequency_penalty": False}, "frequency_penalty", "unsupported_parameter", 400),
    ({"store": True}, "store", "unsupported_parameter", 400),
    ({"functions": [{}]}, "functions", "unsupported_parameter", 400),
    ({"logit_bias": {"x": 3}}, "logit_bias", "invalid_value", 400),
    ({"logit_bias": {"9" * 5000: 3}}, "logit_bias", "invalid_value", 400),
    ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias", "invalid_value", 400),
    ({"logit_bias": {"\u0663": 3}}, "logit_bias", "invalid_value", 400),
    ({"max_completion_tokens": 10**400, "reasoning_effort": "low"}, "messages", "context_length_exceeded", 400),
    ({"metadata": {"step": "a\nb"}}, "metadata.step", "invalid_value", 400),
    ({"metadata": {"step_name": "a" * 257}}, "metadata.step_name", "invalid_value", 400),
    ({"tools": [TOOL], "tool_choice": "none", "trimode": {"kind": "tool_call"}}, "trimode.kind", "invalid_value", 400),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value", 400),
    ({"temperature": "0.5"}, "temperature", "invalid_value", 400),
    ({"temperature": 3}, "temperature", "invalid_value", 400),
    ({"seed": True}, "seed", "invalid_value", 400),
    ({"stop": 3}, "stop", "invalid_value", 400),
    ({"stop": ""}, "stop", "invalid_value", 400),
    ({"n": 5}, "n", "invalid_value", 400),
    ({"messages": ASK * 9}, "messages", "invalid_value", 400),
    ({"messages": []}, "messages", "invalid_value", 400),
    ({"messages": [{"role": "user"}]}, "messages[0]", "invalid_value", 400),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0]", "invalid_value", 400),
    ({"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages[1]", "invalid_value", 400),
    ({"tools": [TOOL] * 3}, "tools", "invalid_value", 400),
    ({"tools": []}, "tools", "invalid_value", 400),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value", 400),
    ({"tools": [TOOL], "tool_choice": NO_TOOL}, "tool_choice.function.name", "invalid_value", 400),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "invalid_value", 400),
    ({"stream_options": {}}, "stream_options", "invalid_value", 400),
    ({"max_tokens": 9}, "max_tokens", "invalid_value", 400),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value", 400),
    ({"max_completion_tokens": 10**6}, "messages", "context_length_exceeded", 400),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value", 400),
    ({"response_format": held_to({"type": "objekt"})}, "response_format.type", "malformed_schema", 400),
    ({"response_format": held_to(SCHEMA), "max_completion_tokens": 2}, "max_completion_tokens",
     "max_tokens_too_small", 400),
    ({"response_format": held_to(SCHEMA), "stop": "x", "max_completion_tokens": 40}, "stop", "invalid_value", 400),
    ({"trimode": {"mode": "fast"}}, "trimode.mode", "invalid_value", 400),
    ({"trimode": {"policy": "mine"}}, "trimode.policy", "invalid_value", 400),
    ({"trimode": {"mode": "diffusion", "exact": True}}, "trimode", "invalid_policy", 400),
    ({"user": "a\nb"}, "user", "invalid_value", 400),
    ({"model": "other"}, "model", "model_not_found", 404),
]  # fmt: skip


@pytest.mark.parametrize(("given", "param", "code", "status"), REFUSED, ids=lambda value: str(value)[:60])
def test_everything_else_is_refused_by_name(
    client: TestClient, given: dict[str, Any], param: str | None, code: str, status: int
) -> None:
    reply = client.post(PATH, json=chat(**given))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code), error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"stop": ["a"] * 17}, "at most 16 items"),
        ({"stop": 3}, "valid string"),
        ({"messages": ["hello"]}, "expected an object"),
    ],
)
def test_of_alternatives_the_nearest_says_why(client: TestClient, given: dict[str, Any], why: str) -> None:
    assert why in client.post(PATH, json=chat(**given)).json()["error"]["message"]


def test_paths_and_methods(client: TestClient) -> None:
    assert client.post("/v1/chat").json()["error"]["code"] == "unknown_url"
    reply = client.get(PATH)
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["allow"]) == (
        405, "method_not_allowed", "POST",
    )  # fmt: skip


def test_what_a_template_cannot_show_is_noted(client: TestClient) -> None:
    system = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}]
    named = [*system, {**ASK[0], "name": "ada"}]
    notes = answer(client, messages=named)["trimode"]["notes"]
    assert any("joined" in note for note in notes)
    assert any("messages[1].name" in note for note in notes)
    plain = [{"role": "system", "content": "Be brief.\n\nBe kind."}, *ASK]
    said = [answer(client, messages=given)["choices"][0]["message"]["content"] for given in (named, plain)]
    assert said[0] == said[1]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_the_text(client: TestClient, stream: bool) -> None:
    reply = client.post(PATH, json=chat(logprobs=True, top_logprobs=2, stream=stream))
    if stream:
        choices = [one["choices"][0] for one in documents(reply.text)[:-1]]
        text, told = "".join(one["delta"].get("content", "") for one in choices), choices[-1]["logprobs"]["content"]
    else:
        choice = reply.json()["choices"][0]
        text, told = choice["message"]["content"], choice["logprobs"]["content"]
    assert "".join(one["token"] for one in told) == text
    for one in told:
        assert one["logprob"] <= 0
        assert bytes(one["bytes"]).decode() == one["token"]
        assert len(one["top_logprobs"]) == 2
        assert one["top_logprobs"][0]["token"] == one["token"]  # greedy decoding takes the likeliest


def test_a_bias_keeps_a_token_out(client: TestClient, reference: Engine) -> None:
    first = reference.generate(messages=ASK, max_tokens=1).token_ids[0]
    found = answer(client, logit_bias={str(first): -100})
    assert found["choices"][0]["message"]["content"] != answer(client)["choices"][0]["message"]["content"]


def test_tenants_may_have_a_cache_of_their_own(reference: Engine) -> None:
    with client_of(reference, tenant_cache=True) as own:
        first, again = (answer(own, messages=[{"role": "user", "content": "A cache of my own."}]) for _ in range(2))
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert first["choices"] == again["choices"]


def test_tools_take_what_they_list(client: TestClient) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    found = answer(client, tools=[tool], tool_choice="required", max_completion_tokens=60)
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == "{}"


def test_bodies_that_are_no_json(client: TestClient) -> None:
    assert client.post(PATH, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(PATH, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    for coding, status in (("gzip", 415), ("identity", 200)):
        assert client.post(PATH, json=chat(), headers={"content-encoding": coding}).status_code == status
    huge = client.post(PATH, json=chat(user="x" * (5 << 20)))
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "body_too_large")


def test_other_hosts_are_refused(client: TestClient) -> None:
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 404
    assert client.get("/health", headers={"host": "localhost:8000"}).status_code == 200


def test_request_ids_come_back(client: TestClient) -> None:
    assert client.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert len(client.get("/health", headers={"x-request-id": "x" * 999}).headers["x-request-id"]) == 32
