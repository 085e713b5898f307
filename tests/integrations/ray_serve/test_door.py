"""The whole way without Ray: HTTP at the door, two replicas of the reference checkpoint, one of which is lost.

Answers are those of one engine with one server, token by token; records of all replicas merge to the accepted calls.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_replicas import Local
from served import BASE, TOOL, chat, client_of, documents, held_to
from starlette.testclient import TestClient

from trimode.integrations.ray_serve.door import Behind, door_app
from trimode.integrations.ray_serve.replica import Replica, audit_of
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.audit import merged, read_audit, records, verify
from trimode.policy.calls import Engine

SCHEMA = {"type": "array", "items": {"enum": ["one", "two"]}, "minItems": 6, "maxItems": 6}
BODIES: list[dict[str, Any]] = [
    chat(max_completion_tokens=24),
    chat(max_completion_tokens=24, temperature=1.0, seed=7, trimode={"mode": "linear_spec"}),
    chat(max_completion_tokens=64, response_format=held_to(SCHEMA), trimode={"mode": "quadratic_spec"}),
    chat(max_completion_tokens=64, tools=[TOOL], tool_choice="required", trimode={"kind": "tool_call"}),
    chat(max_completion_tokens=24, n=3, temperature=0.8, seed=3),
    chat(max_completion_tokens=24, trimode={"mode": "diffusion", "exact": False}),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Replica, Replica]]:
    path = tmp_path_factory.mktemp("cluster") / "audit.jsonl"
    a, b = (Replica.load(name, ServerSettings(audit=path, content=True)) for name in ("a", "b"))
    yield a, b
    a.close()
    b.close()


@contextmanager
def door(local: Local, **settings: Any) -> Generator[TestClient]:
    behind = Behind(replicas=local, about=local.about, metrics=local.metrics)
    with TestClient(door_app(behind, ServerSettings(**settings)), base_url=BASE) as client:
        yield client


def over(two: tuple[Replica, Replica], **more: Any) -> Local:
    return Local({one.name: one for one in two}, **more)


def pieces(stream: str) -> dict[int, str]:
    """What a stream says, by choice: its text, and the names and arguments of its calls."""
    found: dict[int, str] = {}
    for one in documents(stream)[:-1]:
        for choice in one["choices"]:
            delta = choice["delta"]
            called = [call["function"] for call in delta.get("tool_calls", ())]
            text = (delta.get("content") or "") + "".join(f"{one.get('name', '')}{one['arguments']}" for one in called)
            found[choice["index"]] = found.get(choice["index"], "") + text
    return found


@pytest.fixture(scope="module")
def alone(reference: Engine) -> Generator[TestClient]:
    with client_of(reference) as client:
        yield client


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stream_whose_replica_is_lost_is_that_of_one_engine(
    two: tuple[Replica, Replica], alone: TestClient, body: dict[str, Any], after: int
) -> None:
    expected = alone.post("/v1/chat/completions", json={**body, "stream": True}).text
    local = over(two, dying={"a": after})
    with door(local) as client:
        found = client.post("/v1/chat/completions", json={**body, "stream": True})
    assert pieces(found.text) == pieces(expected)
    assert local.lost == {"a"}
    last = [one["trimode"]["served"] for one in documents(found.text)[:-1] if "trimode" in one][-1]
    assert (last["replica"], last["attempt"]) == ("b", 2)
    assert last["why"] == "decoded again, a was lost; no session; least to do of 1"


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_whole_answer_whose_replica_is_lost_is_that_of_one_engine(
    two: tuple[Replica, Replica], alone: TestClient, body: dict[str, Any]
) -> None:
    expected = alone.post("/v1/chat/completions", json=body).json()
    with door(over(two, dying={"a": 1})) as client:
        found = client.post("/v1/chat/completions", json=body)
    texts = [one["message"]["content"] for one in expected["choices"]]
    assert [one["message"]["content"] for one in found.json()["choices"]] == texts
    assert found.headers["x-trimode-replica"] == "b"
    assert "a was lost" in found.headers["x-trimode-replica-why"]


def test_records_of_both_replicas_verify_and_merge_to_the_accepted_calls(
    two: tuple[Replica, Replica],
) -> None:
    paths = [one.service.settings.audit for one in two]
    assert [path and path.name for path in paths] == ["audit-a.jsonl", "audit-b.jsonl"]
    names = [f"request-{number}" for number in range(6)]
    with door(over(two, dying={"a": 7})) as client:
        for name in names:
            body = chat(n=2, stream=True, temperature=1.0)
            client.post("/v1/chat/completions", json=body, headers={"x-request-id": name, "x-session-id": name})
    files = [path for path in paths if path is not None]
    assert [verify(path) for path in files] == [[], []]
    found = merged(files)
    served = [one.served for one in found.records if one.served is not None and one.served.request in names]
    assert sorted((one.request, one.choice) for one in served) == [
        (name, choice) for name in names for choice in (0, 1)
    ]
    finished = {one.served.request: one.token_ids for one in found.records if one.served and one.served.choice == 0}
    assert len({finished[name] for name in names}) == 1


def test_a_session_stays_at_home_and_leaves_it_under_load(two: tuple[Replica, Replica]) -> None:
    local = over(two, busy=2)
    with door(local) as client:
        first = [client.post("/v1/chat/completions", json=chat(), headers={"x-session-id": "one"}) for _ in range(3)]
        assert {one.headers["x-trimode-replica-why"] for one in first} == {"home of the session"}
        (home,) = {one.headers["x-trimode-replica"] for one in first}
        local.ongoing[home] = 2
        found = client.post("/v1/chat/completions", json=chat(), headers={"x-session-id": "one"})
    assert found.headers["x-trimode-replica"] != home
    assert found.headers["x-trimode-replica-why"] == f"spilled: the home {home} has 2 requests, 2 are busy"
    (record,) = [
        one
        for replica in two
        for one in records(read_audit(audit_of_replica(replica)))
        if one.call == found.headers["x-trimode-record"]
    ]
    assert record.served is not None
    assert (record.session, record.served.why) == ("one", found.headers["x-trimode-replica-why"])


def audit_of_replica(replica: Replica) -> Path:
    path = replica.service.settings.audit
    assert path is not None
    return path


def test_the_other_paths_are_answered_by_a_replica(two: tuple[Replica, Replica], alone: TestClient) -> None:
    asked = {"model": "trimode-reference", "messages": [{"role": "user", "content": "How many?"}]}
    decision = {
        "messages": asked["messages"],
        "questions": [{"name": "long", "text": "Is it long?", "type": "predicate"}],
    }
    with door(over(two)) as client:
        for path, body in (
            ("/tokenize", {"prompt": "one two"}),
            ("/detokenize", {"tokens": [5, 6]}),
            ("/v1/messages/count_tokens", asked),
            ("/v1/decisions", decision),
            ("/tokenize", {"prompt": 1}),
        ):
            found, expected = client.post(path, json=body), alone.post(path, json=body)
            assert found.status_code == expected.status_code
            assert found.json().keys() == expected.json().keys()
        assert client.get("/v1/models").json() == alone.get("/v1/models").json()
        assert client.get("/ready").json()["status"] == "ready"
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/v1/nothing").status_code == 404
        text = client.get("/metrics").text
    assert 'trimode_calls_total{kind="prose",outcome="finished",replica="a"}' in text
    assert 'trimode_door_requests_total{path="/tokenize",status="200"} 1.0' in text


@pytest.mark.parametrize(
    ("body", "status"), [(chat(nonsense=1), 400), (chat(max_completion_tokens=10**6), 400), (chat(model="x"), 404)]
)
def test_refusals_are_those_of_one_server(
    two: tuple[Replica, Replica], alone: TestClient, body: dict[str, Any], status: int
) -> None:
    with door(over(two)) as client:
        for stream in (False, True):
            found = client.post("/v1/chat/completions", json={**body, "stream": stream})
            assert found.status_code == status
            assert found.json() == alone.post("/v1/chat/completions", json=body).json()


def test_each_replica_has_an_audit_file_of_its_own() -> None:
    assert audit_of(Path("runs/audit.jsonl"), "a1") == Path("runs/audit-a1.jsonl")
    assert audit_of(None, "a1") is None


def test_a_replica_that_is_closed_is_not_well() -> None:
    replica = Replica.load("c", ServerSettings())
    replica.check()
    assert replica.about().names == ("trimode-reference",)
    replica.close()
    replica.close()
