"""The endpoints of decisions: both documents, errors that name the parameter, scopes, and bodies of all kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import MODEL, client_of
from starlette.testclient import TestClient

from trimode.integrations.server.api.decisions import scope_of
from trimode.integrations.server.wire.decisions import DecisionBody, validated
from trimode.integrations.server.wire.questions import messages_of, option_texts
from trimode.policy.calls.engine import Engine
from trimode.testing import FakeEngine

ASK: dict[str, Any] = {
    "model": MODEL,
    "input": "It is ten to midnight, and the user wants to know what 2 + 2 is.",
    "questions": [
        {"type": "predicate", "instructions": "Is it late?", "name": "late"},
        {
            "type": "choice",
            "instructions": [{"type": "input_text", "text": "Which tool?"}],
            "choices": [{"value": "search"}, {"value": "calculator", "description": "sums"}, {"value": True}],
        },
        {"type": "score", "instructions": "How urgent?", "levels": [{"label": "low"}, {"label": "high"}], "name": "u"},
    ],
}
ONE: dict[str, Any] = {
    "model": MODEL,
    "state": {"time": "23:50"},
    "questions": {
        "late": {"type": "noul", "instructions": "Is it late?", "criteria": {"true": "after 22:00"}},
        "tool": {"type": "choice", "instructions": "Which tool?", "criteria": {"search": "the web", "none": None}},
        "u": {"type": "score", "instructions": "How urgent?", "criteria": ["not", "a little", "very"]},
    },
}


@pytest.fixture(scope="module")
def client(reference: Engine) -> Iterator[TestClient]:
    with client_of(reference) as made:
        yield made


@pytest.fixture(scope="module")
def scripted() -> Iterator[TestClient]:
    with client_of(FakeEngine(), name=MODEL) as made:
        yield made


def test_decisions_answer_in_order(client: TestClient, reference: Engine) -> None:
    found = client.post("/v1/decisions", json=ASK)
    assert found.status_code == 200
    body = found.json()
    late, tool, urgency = body["answers"]
    assert (late["type"], late["name"], tool["name"], urgency["name"]) == ("predicate", "late", None, "u")
    assert 0 < late["probability"] < 1
    assert [share["value"] for share in tool["probabilities"]] == ["search", "calculator", True]
    assert sum(share["probability"] for share in tool["probabilities"]) == pytest.approx(1)
    assert tool["choice"] in ("search", "calculator", True)
    assert urgency["score"] == pytest.approx(urgency["probabilities"][1]["probability"])
    assert [(level["label"], level["value"]) for level in urgency["probabilities"]] == [("low", 0), ("high", 1)]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] > 0 == usage["output_tokens"]
    assert body["model"] == reference.runtime.model
    assert body["trimode"]["passes"] >= 1


def test_system_one_answers_by_name(client: TestClient) -> None:
    body = client.post("/v1/systemone", json=ONE).json()
    assert list(body["answers"]) == ["late", "tool", "u"]
    late, tool, urgency = body["answers"].values()
    assert set(late) == {"type", "noul"}
    assert list(tool["probabilities"]) == ["search", "none"]
    assert tool["confidence"] == max(tool["probabilities"].values())
    assert urgency["legend"] == {"0": "not", "1": "a little", "2": "very"}
    assert urgency["score"] == pytest.approx(urgency["probabilities"]["1"] + 2 * urgency["probabilities"]["2"])
    warm = client.post("/v1/systemone", json={**ONE, "temperature": 5.0}).json()
    assert warm["answers"]["tool"]["confidence"] <= tool["confidence"]


def test_both_endpoints_agree(client: TestClient) -> None:
    ask = {"model": MODEL, "input": "Hello", "questions": [{"type": "predicate", "instructions": "Is it late?"}]}
    one = {"model": MODEL, "state": "Hello", "questions": {"x": {"type": "noul", "instructions": "Is it late?"}}}
    probability = client.post("/v1/decisions", json=ask).json()["answers"][0]["probability"]
    assert client.post("/v1/systemone", json=one).json()["answers"]["x"]["noul"] == probability


def test_an_input_of_every_kind_of_item(client: TestClient) -> None:
    items = [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is 2 + 2?"}]},
        {"type": "function_call", "call_id": "a", "name": "sum", "arguments": "{}", "status": "completed"},
        {"type": "custom_tool_call", "call_id": "b", "name": "shell", "input": "ls"},
        {"type": "function_call_output", "call_id": "a", "output": "4"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "x"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It is 4."}]},
        {"role": "user", "content": [{"type": "input_json", "data": {"a": [1, None]}}]},
    ]
    messages = messages_of(validated(DecisionBody, {**ASK, "input": items}).input)
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert [call["id"] for call in messages[2]["tool_calls"]] == ["a", "b"]
    assert messages[-1]["content"] == '{"a": [1, null]}'
    assert client.post("/v1/decisions", json={**ASK, "input": items}).status_code == 200


def test_booleans_and_strings_of_the_same_text_are_told_apart() -> None:
    assert option_texts(["true", True, False]) == ["true", "true (boolean)", "false"]


def changed(path: str, value: Any) -> dict[str, Any]:
    body = json.loads(json.dumps(ASK))
    *above, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    at: Any = body
    for part in above:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return dict(body)


@pytest.mark.parametrize(
    ("path", "value", "param", "code"),
    [
        ("temperature", 1, "temperature", "unknown_parameter"),
        ("questions/0/weight", 1, "questions[0].weight", "unknown_parameter"),
        ("questions/1/choices/0/extra", 1, "questions[1].choices[0].extra", "unknown_parameter"),
        ("input", ..., "input", "missing_required_parameter"),
        ("input", 3, "input", "invalid_value"),
        ("input", [], None, "invalid_value"),
        ("input", [{"role": "tool", "content": "x"}], "input[0].role", "invalid_value"),
        ("input", [{"type": "reasoning"}], "input[0]", "invalid_value"),
        (
            "input",
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
            "input[0].content[0]",
            "invalid_value",
        ),
        ("questions", [], None, "invalid_value"),
        ("questions", ASK["questions"] * 200, None, "invalid_value"),
        ("questions/0/type", "box", "questions[0]", "invalid_value"),
        ("questions/0/instructions", " ", "questions[0]", "invalid_value"),
        ("questions/1/choices", [{"value": "a"}], "questions[1]", "invalid_value"),
        ("questions/1/choices", [{"value": "a"}, {"value": "a"}], "questions[1]", "invalid_value"),
        ("questions/1/choices/0/value", 3, "questions[1].choices[0].value", "invalid_value"),
        ("prompt_cache_options", {"mode": "explicit"}, "prompt_cache_options.mode", "invalid_value"),
        ("prompt_cache_key", 3, "prompt_cache_key", "invalid_value"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    scripted: TestClient, path: str, value: Any, param: str | None, code: str
) -> None:
    found = scripted.post("/v1/decisions", json=changed(path, value))
    error = found.json()["error"]
    assert (found.status_code, error["type"], error["param"], error["code"]) == (
        400,
        "invalid_request_error",
        param,
        code,
    )


def test_a_calibration_of_the_app_is_applied_and_told(reference: Engine) -> None:
    with client_of(reference, calibration={"temperature": 2.0, "offset": 9.0}) as client:
        body = client.post("/v1/systemone", json={**ONE, "temperature": 3.0}).json()
    assert body["answers"]["late"]["noul"] > 0.5
    assert body["trimode"]["calibration"] == {"temperature": 6.0, "slope": 1.0, "offset": 9.0}


@pytest.mark.parametrize("wrong", [0, -1, "1", 5000.0])
def test_temperatures_out_of_range_are_refused(scripted: TestClient, wrong: Any) -> None:
    found = scripted.post("/v1/systemone", json={**ONE, "temperature": wrong})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "temperature")


@pytest.mark.parametrize("extra", ["images", "assets", "audio", "videos", "weights"])
def test_system_one_refuses_what_it_does_not_read(scripted: TestClient, extra: str) -> None:
    found = scripted.post("/v1/systemone", json={**ONE, extra: []})
    assert (found.status_code, found.json()["error"]["param"]) == (400, extra)


def test_hints_that_ask_for_nothing_else_pass(scripted: TestClient) -> None:
    more = {
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        "safety_identifier": "x",
        "prompt_cache_key": None,
    }
    assert scripted.post("/v1/decisions", json={**ASK, **more}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'"x"', b"\xff", b'{"model": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_request(scripted: TestClient, body: bytes) -> None:
    for path in ("/v1/decisions", "/v1/systemone"):
        assert scripted.post(path, content=body, headers={"content-type": "application/json"}).status_code == 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    "input",
    "questions",
    "questions/0",
    "questions/0/type",
    "questions/1/choices",
    "questions/2/levels/0",
    "model",
]


@given(path=st.sampled_from(PATHS), value=values)
@settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutants_are_answered_or_refused_never_an_error_of_the_server(
    scripted: TestClient, path: str, value: Any
) -> None:
    allowed = (400, 404) if path == "model" and isinstance(value, str) else (200, 400)
    assert scripted.post("/v1/decisions", json=changed(path, value)).status_code in allowed


def test_a_cache_key_partitions_what_its_tenant_has_read(fresh: Engine) -> None:
    seen = []
    with client_of(fresh) as client:
        for key in ("a", "a", "b"):
            usage = client.post("/v1/decisions", json={**ASK, "prompt_cache_key": key}).json()["usage"]
            seen.append(usage["input_tokens_details"]["cached_tokens"] > 0)
    assert seen == [False, True, False]
    assert scope_of("", None) is None
    assert len({scope_of("t", None), scope_of("t", "k"), scope_of("u", "k"), scope_of("", "k")}) == 4


def test_a_request_beyond_the_context_is_refused(client: TestClient) -> None:
    found = client.post("/v1/decisions", json={**ASK, "input": "word " * 60_000})
    assert found.status_code == 400
