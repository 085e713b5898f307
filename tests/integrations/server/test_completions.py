"""`/v1/completions`, the tokenizer's endpoints, the catalog, and the description of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from served import ASK, MODEL, TOOL, chat, client_of, documents
from starlette.testclient import TestClient

from trimode.policy.calls import Engine

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def client(reference: Engine) -> Iterator[TestClient]:
    with client_of(reference, max_choices=4) as made:
        yield made


def completed(client: TestClient, **more: Any) -> dict[str, Any]:
    reply = client.post(PATH, json={"model": MODEL, "max_tokens": 6, **more})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_a_text_goes_on(client: TestClient, reference: Engine) -> None:
    own = reference.generate("Once upon", max_tokens=6)
    found = completed(client, prompt="Once upon")
    assert found["choices"] == [{"index": 0, "text": own.text, "logprobs": None, "finish_reason": own.finish_reason}]
    ids = reference.tokenize("Once upon")
    assert completed(client, prompt=ids)["choices"] == found["choices"]
    assert found["object"] == "text_completion"


def test_prompts_and_choices_are_numbered_through(client: TestClient) -> None:
    alone = [completed(client, prompt=one, n=2, temperature=1.0) for one in ("One", "Two")]
    both = completed(client, prompt=["One", "Two"], n=2, temperature=1.0)
    assert [one["text"] for one in both["choices"]] == [c["text"] for found in alone for c in found["choices"]]
    for name in ("prompt_tokens", "completion_tokens"):
        assert both["usage"][name] == sum(found["usage"][name] for found in alone)


def test_a_gap_is_filled(client: TestClient, reference: Engine) -> None:
    own = reference.infill("He has 15 x 4 =", " dollars in a day.", 6)
    found = completed(client, prompt="He has 15 x 4 =", suffix=" dollars in a day.")
    assert found["choices"][0]["text"] == own.text
    assert found["trimode"]["mode"] == "diffusion"
    reply = client.post(PATH, json={"model": MODEL, "prompt": "He", "suffix": "x", "stop": "y"})
    assert reply.json()["error"]["param"] == "stop"
    streamed = {"model": MODEL, "prompt": "He has 15 x 4 =", "suffix": " dollars in a day.", "stream": True}
    pieces = documents(client.post(PATH, json={**streamed, "max_tokens": 6}).text)[:-1]
    assert "".join(one["choices"][0]["text"] for one in pieces) == own.text


def test_log_probabilities(client: TestClient) -> None:
    choice = completed(client, prompt="Once upon", logprobs=2)["choices"][0]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"][0] == 0
    assert all(one <= 0 for one in told["token_logprobs"])


def test_decisions_are_made_under_the_server_s_rules(client: TestClient) -> None:
    question: dict[str, Any] = {"type": "predicate", "instructions": "Is it late?", "name": "late"}
    body: dict[str, Any] = {"model": MODEL, "input": "It is ten to midnight.", "questions": [question]}
    found = client.post("/v1/decisions", json=body).json()
    assert 0 <= found["answers"][0]["probability"] <= 1
    assert found["model"] == MODEL
    one = {"late": {"type": "noul", "instructions": "Is it late?"}}
    assert client.post("/v1/systemone", json={"model": MODEL, "state": "x", "questions": one}).json()["answers"]
    refused: list[tuple[dict[str, Any], int, str, str]] = [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"speed": 1}, 400, "speed", "unknown_parameter"),
        ({"questions": [{**question, "type": "x"}]}, 400, "questions[0]", "invalid_value"),
    ]
    for more, status, param, code in refused:
        reply = client.post("/v1/decisions", json={**body, **more})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (status, param, code)


def test_a_stream_adds_up(client: TestClient) -> None:
    whole = completed(client, prompt="Once upon")
    body = {"model": MODEL, "max_tokens": 6, "prompt": "Once upon", "stream": True}
    *chunks, usage, end = documents(client.post(PATH, json={**body, "stream_options": {"include_usage": True}}).text)
    assert end == "[DONE]"
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert "".join(one["choices"][0]["text"] for one in chunks) == whole["choices"][0]["text"]
    assert [one["choices"][0]["finish_reason"] for one in chunks if one["choices"][0]["finish_reason"]] == [
        whole["choices"][0]["finish_reason"]
    ]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "x", "max_tokens": 10**6}, "prompt"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": ["x"] * 3, "n": 2}, "n"),
        ({"prompt": [1], "suffix": "x"}, "suffix"),
    ],
)
def test_refusals(client: TestClient, more: dict[str, Any], param: str) -> None:
    reply = client.post(PATH, json={"model": MODEL, **more})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_the_tokenizer(client: TestClient, reference: Engine) -> None:
    found = client.post("/tokenize", json={"prompt": "naïve 🎉"}).json()
    assert found["tokens"] == reference.tokenize("naïve 🎉")
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), reference.context)
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "naïve 🎉"}
    told = client.post("/tokenize", json={"messages": ASK, "tools": [TOOL]}).json()["count"]
    asked = client.post("/v1/chat/completions", json=chat(tools=[TOOL], tool_choice="none")).json()
    assert told == asked["usage"]["prompt_tokens"]
    for path, body in [
        ("/tokenize", {}), ("/tokenize", {"prompt": "a", "messages": ASK}), ("/detokenize", {"tokens": [10**9]}),
        ("/tokenize", {"prompt": "a", "add_special_tokens": True}), ("/detokenize", {"tokens": ["a"]}),
    ]:  # fmt: skip
        assert client.post(path, json=body).status_code == 400


def test_the_catalog(client: TestClient) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    assert (listed["id"], listed["object"]) == (MODEL, "model")
    assert client.get(f"/v1/models/{MODEL}").json() == listed
    assert client.get("/v1/models/a/b").json()["error"]["code"] == "model_not_found"


def test_another_name(reference: Engine) -> None:
    with client_of(reference, name="agents/small") as client:
        assert client.get("/v1/models/agents/small").json()["root"] == MODEL
        assert client.post("/v1/chat/completions", json=chat(model="agents/small")).json()["model"] == "agents/small"
        assert client.post("/v1/chat/completions", json=chat()).status_code == 404


def test_the_description_describes_what_is_taken(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    schemas = {"components": told["components"]}
    chats = jsonschema.Draft202012Validator({"$ref": "#/components/schemas/ChatRequest", **schemas})
    assert chats.is_valid(chat(tools=[TOOL], frequency_penalty=0))
    for wrong in ({"prot": 1}, {"frequency_penalty": 1}, {"temperature": "x"}):
        assert not chats.is_valid(chat(**wrong))
    assert set(told["paths"]) >= {PATH, "/v1/chat/completions", "/tokenize"}
