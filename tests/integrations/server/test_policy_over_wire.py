"""How to decode, by body and by headers; sessions, traces and the audit file; what the response says was done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from served import ASK, TOOL, chat, client_of, documents, held_to, service_in
from starlette.testclient import TestClient

from trimode.policy.audit import CallRecord, read_audit, verify
from trimode.policy.calls import Engine

PATH = "/v1/chat/completions"
FLAG = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "own.toml").write_text('[kinds]\nprose = { mode = "quadratic_spec", block_length = 4 }\n')
    (folder / "fast.toml").write_text('[kinds]\nprose = { mode = "linear_spec", block_length = 8 }\n')
    (folder / "mixed.toml").write_text('[kinds]\njson = { mode = "linear_spec" }\nthinking = { mode = "ar" }\n')
    return folder


@pytest.fixture(scope="module")
def client(reference: Engine, files: Path) -> Iterator[TestClient]:
    settings = {
        "policy": str(files / "own.toml"),
        "policies": {name: str(files / f"{name}.toml") for name in ("fast", "mixed")},
    }
    with client_of(reference, audit=files / "audit.jsonl", **settings) as made:
        yield made


def recorded(file: Path) -> dict[str, CallRecord]:
    """The records of an audit file by their id."""
    return {line.record.call: line.record for line in read_audit(file) if line.record is not None}


def done(client: TestClient, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    reply = client.post(PATH, json=chat(**more), headers=headers)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["trimode"]
    return found


def test_the_server_s_policy_decides_where_nobody_else_does(client: TestClient) -> None:
    found = done(client)
    assert (found["mode"], found["segments"][0]["modes"]) == ("quadratic_spec", ["quadratic_spec"])
    assert "own.toml" in found["reason"]
    assert found["passes"] > 0
    assert found["drafted"] == found["accepted"] + found["rejected"]


def test_every_mode_gives_the_same_text(client: TestClient) -> None:
    bodies = [{"mode": "ar"}, {"mode": "linear_spec", "block_length": 4}, {"policy": "fast"}, {"policy": "table"}]
    replies = [client.post(PATH, json=chat(trimode=body, max_completion_tokens=16)).json() for body in bodies]
    assert [reply["trimode"]["mode"] for reply in replies][:3] == ["ar", "linear_spec", "linear_spec"]
    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1


def test_drafts_may_be_copied(client: TestClient) -> None:
    found = done(client, trimode={"mode": "lookup_spec", "min_match": 2, "block_length": 4})
    assert found["segments"][0]["modes"] == ["lookup_spec"]


def test_headers_say_the_same(client: TestClient) -> None:
    found = done(client, {"X-Trimode-Mode": "linear_spec", "X-Trimode-Block-Length": "4", "X-Trimode-Step": "greet"})
    assert (found["mode"], found["step"]) == ("linear_spec", "greet")
    for headers, param in [
        ({"X-Trimode-Mode": "fast"}, "x-trimode-mode"),
        ({"X-Trimode-Speed": "1"}, "x-trimode-speed"),
        ({"X-Session-Id": "x" * 300}, "x-session-id"),
    ]:
        reply = client.post(PATH, json=chat(), headers=headers)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    both = client.post(PATH, json=chat(trimode={"mode": "ar"}), headers={"X-Trimode-Mode": "linear_spec"})
    assert both.json()["error"]["param"] == "trimode.mode"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({}, "prose"),
        ({"trimode": {"kind": "plan"}}, "plan"),
        ({"response_format": held_to(FLAG), "max_completion_tokens": 30}, "json"),
        ({"tools": [TOOL], "tool_choice": "required", "max_completion_tokens": 60}, "tool_call"),
        ({"tools": [TOOL], "tool_choice": "none"}, "prose"),
        (
            {"tools": [TOOL], "response_format": held_to(FLAG), "tool_choice": "none", "max_completion_tokens": 60},
            "json",
        ),
    ],
)
def test_kinds_are_inferred(client: TestClient, more: dict[str, Any], kind: str) -> None:
    found = done(client, **more)
    assert [one["kind"] for one in found["segments"]] == [kind]
    assert found["kind"] == ("turn" if "tools" in more else kind)


def test_each_segment_has_its_own_mode(client: TestClient, files: Path) -> None:
    del files
    found = done(
        client, tools=[TOOL], response_format=held_to(FLAG), reasoning_effort="low", tool_choice="none",
        max_completion_tokens=60, trimode={"policy": "mixed"},
    )  # fmt: skip
    assert {one["kind"]: one["modes"] for one in found["segments"]} == {"thinking": ["ar"], "json": ["linear_spec"]}
    assert all(one["reason"] for one in found["segments"])


def test_a_step_may_be_one_call(client: TestClient) -> None:
    body = chat(tools=[TOOL], tool_choice="required", max_completion_tokens=60, trimode={"kind": "tool_call"})
    for stream in (False, True):
        reply = client.post(PATH, json={**body, "stream": stream})
        assert reply.status_code == 200
        assert '"finish_reason":"tool_calls"' in reply.text
        assert '"name":"calculator"' in reply.text
    wrong = client.post(PATH, json={**body, "trimode": {"kind": "prose"}})
    assert wrong.json()["error"]["param"] == "trimode.kind"


def test_the_step_s_name_comes_from_metadata(client: TestClient) -> None:
    assert done(client, metadata={"step": "summarise"})["step"] == "summarise"
    assert done(client, metadata={"step": "a"}, trimode={"step": "b"})["step"] == "b"


def test_diffusion_only_where_it_is_allowed(client: TestClient) -> None:
    found = done(client, trimode={"mode": "diffusion", "exact": False, "threshold": 0.5})
    assert found["segments"][0]["modes"] == ["diffusion"]


@pytest.mark.parametrize(
    "name", ["X-Session-Id", "x-session-token", "x-smg-routing-key", "x-sgl-routing-key", "X-Dynamo-Session-ID"]
)
def test_sessions_name_the_audit_s_session(client: TestClient, files: Path, name: str) -> None:
    found = done(client, {name: f"run-{name}"})
    assert found["session"] == f"run-{name}"
    record = recorded(files / "audit.jsonl")[found["record"]]
    assert (record.session, record.step, record.kind) == (f"run-{name}", found["step"], "prose")
    assert verify(files / "audit.jsonl") == []


def test_a_stream_s_record_is_named_in_its_headers(client: TestClient, files: Path) -> None:
    reply = client.post(PATH, json=chat(stream=True))
    record = reply.headers["x-trimode-record"]
    assert documents(reply.text)[-2]["trimode"]["record"] == record
    assert record in recorded(files / "audit.jsonl")


def test_spans_hang_under_the_client_s(client: TestClient, spans: InMemorySpanExporter) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    for stream in (False, True):
        client.post(PATH, json=chat(stream=stream), headers={"traceparent": f"00-{trace}-{parent}-01"})
    found = [span for span in spans.get_finished_spans() if span.name.startswith("chat")]
    assert len(found) == 2
    for span in found:
        assert span.parent is not None
        assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace, parent)


def test_without_a_session_none_is_named(client: TestClient) -> None:
    assert done(client)["session"] is None
    assert service_in(client).names
    assert ASK
