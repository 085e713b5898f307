"""Real trace servers: the demo's spans, sent over OTLP/HTTP, come back through the servers' own APIs.

`make test-backends` installs Arize Phoenix and MLflow into `.backends/` and runs this file. Each server keeps what it
is sent in a temporary directory and listens on loopback only.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest

from trimode.integrations.tracing.collector import Collector
from trimode.integrations.tracing.push import push
from trimode.integrations.workload.logs.reading import read_logs
from trimode.integrations.workload.logs.span_log import NOT_INFERENCE
from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.round_record import RoundRecord
from trimode.policy.audit.trail import read_audit, records, verify

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(os.environ.get("TRIMODE_BACKENDS", ROOT / ".backends"))
Ready = TypeVar("Ready")
PATIENCE: Final = 240
"""Seconds for a server to start, and for spans to become readable; both poll."""

pytestmark = [pytest.mark.backend, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A span as a server gives it back. Times in nanoseconds."""

    trace: str
    id: str
    parent: str
    name: str
    start: int
    end: int
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Backend:
    """A running server. `read` asks its API for every span of a project; `export`: its answers as they are."""

    name: str
    url: str
    read: Callable[[str], list[Found]]
    export: Callable[[str], Any]
    projects: dict[str, Collector] = field(default_factory=dict[str, Collector])

    def spans(self, project: str, calls: Sequence[CallRecord]) -> list[Found]:
        """The spans of these calls, once all of them are there."""
        wanted = {call.call for call in calls}

        def ready() -> list[Found] | None:
            found = self.read(project)
            told = {str(span.attributes.get("trimode.audit.id")) for span in found}
            return found if told >= wanted else None

        return patiently(ready, f"{self.name} to show {len(wanted)} calls")


def patiently(ready: Callable[[], Ready | None], what: str) -> Ready:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = ready()
        if found is not None:
            return found
        time.sleep(0.5)
    raise TimeoutError(f"waited {PATIENCE} s for {what}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def serve(words: Sequence[str], folder: Path, health: str, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a server in a process group of its own and waits until it answers."""
    program = PROGRAMS / words[0]
    assert program.exists(), f"{program} is missing: run `make test-backends`, which installs it"
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(folder), "DO_NOT_TRACK": "true"}
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [str(program), *words[1:]], cwd=folder, env={**environment, **extra}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def up() -> bool | None:
        assert process.poll() is None, (folder / "log.txt").read_text(errors="replace")[-3000:]
        try:
            return httpx.get(health, timeout=5).is_success or None
        except httpx.TransportError:
            return None

    patiently(up, words[0])
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def phoenix(folder: Path) -> Iterator[Backend]:
    port, grpc = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false", "PHOENIX_AGENTS_DISABLE_BASH": "true",
    }  # fmt: skip
    process = serve(["phoenix/bin/phoenix", "serve"], folder, f"{url}/healthz", settings)

    def export(project: str) -> Any:
        reply = httpx.get(f"{url}/v1/projects/{project}/spans", params={"limit": 1000}, timeout=30)
        return reply.json() if reply.is_success else {"data": []}

    def read(project: str) -> list[Found]:
        return [of_phoenix(span) for span in export(project)["data"]]

    projects = {
        name: Collector(url=f"{url}/v1/traces", headers={"x-project-name": name}) for name in ("trimode", "pushed")
    }
    yield Backend("phoenix", url, read, export, projects)
    stop(process)


def of_phoenix(span: Mapping[str, Any]) -> Found:
    def nanoseconds(text: str) -> int:
        moment = datetime.fromisoformat(text)
        return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000

    return Found(
        trace=span["context"]["trace_id"], id=span["context"]["span_id"], parent=span["parent_id"] or "",
        name=span["name"], start=nanoseconds(span["start_time"]), end=nanoseconds(span["end_time"]),
        attributes=span["attributes"],
    )  # fmt: skip


def mlflow(folder: Path) -> Iterator[Backend]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", "sqlite:///m.db"]
    process = serve(
        ["mlflow/bin/mlflow", "server", *words], folder, f"{url}/health", {"MLFLOW_DISABLE_TELEMETRY": "true"}
    )
    made = httpx.post(f"{url}/api/2.0/mlflow/experiments/create", json={"name": "pushed"}, timeout=60)
    ids = {"trimode": "0", "pushed": str(made.raise_for_status().json()["experiment_id"])}

    def export(project: str) -> Any:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": ids[project]}}
        search = httpx.post(
            f"{url}/api/3.0/mlflow/traces/search", json={"locations": [place], "max_results": 500}, timeout=30
        )
        asked = [{"trace_id": info["trace_id"]} for info in search.json().get("traces", [])]
        return [httpx.get(f"{url}/api/3.0/mlflow/traces/get", params=one, timeout=30).json() for one in asked]

    def read(project: str) -> list[Found]:
        return [of_mlflow(span) for reply in export(project) for span in reply["trace"].get("spans", [])]

    projects = {
        name: Collector(url=f"{url}/v1/traces", headers={"x-mlflow-experiment-id": number})
        for name, number in ids.items()
    }
    yield Backend("mlflow", url, read, export, projects)
    stop(process)


def of_mlflow(span: Mapping[str, Any]) -> Found:
    def plain(value: Mapping[str, Any]) -> Any:
        if not value:
            return None  # null, in what it has read of JSON
        ((kind, held),) = value.items()
        if kind == "array_value":
            return [plain(one) for one in held.get("values", [])]
        if kind == "kvlist_value":
            return {one["key"]: plain(one["value"]) for one in held.get("values", [])}
        return int(held) if kind == "int_value" else held

    def number(text: str) -> str:
        return base64.b64decode(text).hex()

    return Found(
        trace=number(span["trace_id"]), id=number(span["span_id"]), parent=number(span.get("parent_span_id", "")),
        name=span["name"], start=int(span["start_time_unix_nano"]), end=int(span["end_time_unix_nano"]),
        attributes={one["key"]: plain(one["value"]) for one in span["attributes"]},
    )  # fmt: skip


@pytest.fixture(scope="module", params=[phoenix, mlflow], ids=["phoenix", "mlflow"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    yield from request.param(tmp_path_factory.mktemp("server"))


def demo(file: Path, *more: str, **environment: str) -> list[CallRecord]:
    """The demo in a process of its own, as a user starts it; its audit file says what the spans have to say."""
    words = [sys.executable, "-m", "trimode", "demo", "--episodes", "2", "--audit", str(file), *more]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to export" not in done.stderr
    assert verify(file) == []
    return records(read_audit(file))


def check(calls: Sequence[CallRecord], spans: Sequence[Found], content: bool) -> None:
    """Every call is there once, with a decode span for each run of one mode that says what its record says."""
    by_call = {span.attributes["trimode.audit.id"]: span for span in spans if span.name.startswith("chat ")}
    assert {call.call for call in calls} == set(by_call)
    seen = set[str]()
    for call in calls:
        around = by_call[call.call]
        assert call.counts is not None
        assert around.attributes["gen_ai.usage.output_tokens"] == call.counts.output_tokens
        assert around.attributes["trimode.step.kind"] == call.kind
        assert around.attributes["trimode.decode.reason"] == call.policy.reason
        inside = sorted((span for span in spans if span.parent == around.id), key=lambda span: span.start)
        runs = [(mode, list(rounds)) for mode, rounds in groupby(call.rounds, key=lambda made: made.mode)]
        assert [span.name for span in inside] == [f"decode {mode}" for mode, _ in runs]
        for span, (mode, rounds) in zip(inside, runs, strict=True):
            assert span.trace == around.trace
            check_decode(span.attributes, mode, rounds, content)
            seen.add(mode)
    assert seen == {"ar", "linear_spec", "diffusion"}
    assert any(made.rejected for call in calls for made in call.rounds), "a demo without rejections shows nothing"


def check_decode(told: Mapping[str, Any], mode: str, rounds: Sequence[RoundRecord], content: bool) -> None:
    drafts = any(made.drafted for made in rounds)
    assert told["trimode.decode.mode"] == mode
    assert told["trimode.draft.rejected_tokens"] == sum(len(made.rejected) for made in rounds)
    assert told.get("trimode.draft.accepted") == ([made.accepted for made in rounds] if drafts else None)
    assert told.get("trimode.draft.proposed") == ([made.drafted for made in rounds] if drafts else None)
    if not content:
        assert not {"trimode.draft.rejected", "output.value"} & set(told)
        return
    given = told.get("trimode.draft.rejected", "[]")
    lost = json.loads(given) if isinstance(given, str) else given  # MLflow reads JSON in strings
    assert [token for _, tokens, *_ in lost for token in tokens] == [
        token for made in rounds for token, _ in made.rejected
    ]
    assert {why for _, _, _, why, _ in lost} == {why for made in rounds for _, why in made.rejected}
    runs = [
        list(run)
        for made in rounds
        for _, run in groupby(zip(made.rejected, made.instead or (), strict=True), key=lambda draft: draft[0][1])
    ]
    assert [chance for *_, chance in lost] == [run[0][1] for run in runs]
    assert told["output.value"].startswith("| # | output |")


def test_live_spans_arrive(backend: Backend, tmp_path: Path) -> None:
    place = {
        "phoenix": {"PHOENIX_COLLECTOR_ENDPOINT": backend.url, "PHOENIX_PROJECT_NAME": "trimode"},
        "mlflow": {"MLFLOW_TRACKING_URI": backend.url, "MLFLOW_EXPERIMENT_ID": "0"},
    }[backend.name]
    calls = demo(tmp_path / "audit.jsonl", "--trace", backend.name, **place, **{SWITCH: "SPAN_ONLY"})
    check(calls, backend.spans("trimode", calls), content=True)


def test_an_export_is_a_workload(backend: Backend, tmp_path: Path) -> None:
    """What the server gives back, as it is, is read as the calls that were recorded."""
    place = {
        "phoenix": {"PHOENIX_COLLECTOR_ENDPOINT": backend.url, "PHOENIX_PROJECT_NAME": "trimode"},
        "mlflow": {"MLFLOW_TRACKING_URI": backend.url, "MLFLOW_EXPERIMENT_ID": "0"},
    }[backend.name]
    calls = demo(tmp_path / "audit.jsonl", "--trace", backend.name, **place, **{SWITCH: "SPAN_ONLY"})
    backend.spans("trimode", calls)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(backend.export("trimode")))
    found = read_logs([path])
    read = {(one.loop, one.step, one.answer.text if one.answer else None) for one in found.calls}
    assert {(call.session, call.step, call.text) for call in calls} <= read
    assert found.left_out[NOT_INFERENCE] > 0
    for one in found.calls:
        assert one.messages
        assert one.settings["max_tokens"] == 128
        assert one.usage.output
        assert one.times.last


def test_pushed_calls_arrive_once_at_the_time_they_ran(backend: Backend, tmp_path: Path) -> None:
    calls = demo(tmp_path / "audit.jsonl")
    target = backend.projects["pushed"]
    sent = push(calls, target, content=False)
    backend.spans("pushed", calls)
    assert push(calls, target, content=False) == sent
    spans = backend.spans("pushed", calls)
    assert len(spans) == len({span.id for span in spans}) == sent, "sending twice adds nothing"
    check(calls, spans, content=False)
    starts = {span.attributes["trimode.audit.id"]: span for span in spans if span.name.startswith("chat ")}
    for call in calls:
        assert abs(starts[call.call].start - call.start_ns) < 1000, "Phoenix keeps microseconds"
        assert abs(starts[call.call].end - call.end_ns) < 1000
