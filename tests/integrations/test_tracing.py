"""Spans on their way out: to a real HTTP server that decodes the protobuf, live and from an audit file."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as api
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS, OTEL_SDK_DISABLED, OTEL_SERVICE_NAME
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

import trimode
from trimode.engine.errors import TrimodeError
from trimode.integrations.cli import app as cli
from trimode.integrations.tracing.collector import Collector, collector, resource
from trimode.integrations.tracing.push import BATCH, push
from trimode.policy.audit import process_trails as everywhere
from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import PolicyError
from trimode.policy.steps.sessions import session
from trimode.policy.telemetry.spans import CallSpan

Recorded = Callable[..., CallRecord]


@dataclass
class Server:
    """A collector on loopback: what it was sent, and what it will answer."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    posts: list[tuple[str, Mapping[str, str], ExportTraceServiceRequest]] = field(default_factory=list)

    @property
    def collector(self) -> Collector:
        return collector(self.url)

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for _, _, message in self.posts
            for of_resource in message.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.posts.append((self.path, dict(self.headers), ExportTraceServiceRequest.FromString(body)))
            self.send_response(found.status)
            self.send_header("content-length", str(len(found.answer)))
            self.end_headers()
            self.wfile.write(found.answer)

        def log_message(self, format: str, *args: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def _nothing_global(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the machine stay out, and what a test installs for the process goes with it."""
    for name in (SWITCH, OTEL_SDK_DISABLED, OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(everywhere, "_files", {})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """A provider that the program around us installed."""
    made = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(api, "get_tracer_provider", lambda: made)
    yield made
    made.shutdown()


def values(span: Span) -> dict[str, Any]:
    """Attributes as plain values."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in span.attributes}


def test_pushed_spans_are_those_that_the_call_made(recorded: Recorded, server: Server) -> None:
    record = recorded("linear_spec", schema=True)
    live = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(live))
    CallSpan(
        call=record.call,
        model="tiny",
        step=record.step,
        kind=record.kind,
        tracer=provider.get_tracer("t"),
        content=True,
        agent=record.agent,
        session=record.session,
    ).end(record)
    assert push([record], server.collector, content=True) == len(server.spans) == 2
    made = {span.name: json.loads(span.to_json())["attributes"] for span in live.get_finished_spans()}
    sent = {span.name: values(span) for span in server.spans}
    assert json.loads(json.dumps(sent)) == made
    decode, call = server.spans
    assert (call.start_time_unix_nano, call.end_time_unix_nano) == (record.start_ns, record.end_ns)
    assert decode.parent_span_id == call.span_id
    assert not call.parent_span_id


def test_pushing_twice_sends_the_same_ids(recorded: Recorded, server: Server) -> None:
    calls = [recorded(mode) for mode in ("ar", "diffusion", "linear_spec")]
    for _ in range(2):
        push(calls, server.collector)
    ids = [(span.trace_id, span.span_id) for span in server.spans]
    assert ids[:6] == ids[6:]
    assert len(set(ids)) == 6
    assert len({trace for trace, _ in ids}) == 3, "a call is a trace"


def test_content_is_pushed_only_where_it_may_be(
    recorded: Recorded, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = recorded("linear_spec", schema=True)
    push([record], server.collector)
    assert not {"input.value", "gen_ai.output.messages"} & {key for span in server.spans for key in values(span)}
    monkeypatch.setenv(SWITCH, "SPAN_ONLY")
    push([record], server.collector)
    decode, call = server.spans[2:]
    assert json.loads(values(call)["gen_ai.output.messages"])[0]["parts"][0]["content"] == record.text
    runs = json.loads(values(decode)["trimode.draft.rejected"])
    rejected = [token for made in record.rounds for token, _ in made.rejected]
    assert [token for _, tokens, *_ in runs for token in tokens] == rejected
    push([record.redacted()], server.collector)
    assert "output.value" not in values(server.spans[4])


def test_command_pushes_what_can_be_read_and_names_the_rest(recorded: Recorded, server: Server, tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.jsonl", content=True)
    for mode in ("ar", "diffusion"):
        file.write(recorded(mode))
    words = ["audit", "push", str(file.path), "--to", server.url]
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stdout) == (0, f"sent: 2 calls as 4 spans to {server.url}/v1/traces\n")
    file.path.write_bytes(file.path.read_bytes()[:-9])
    done = CliRunner().invoke(cli.app, [*words, "--content"])
    assert done.exit_code == 1
    assert "line 2 cannot be read" in done.stderr
    assert len(server.spans) == 6
    assert "gen_ai.output.messages" in values(server.spans[-1])


def test_failed_calls_are_pushed_as_errors(recorded: Recorded, server: Server) -> None:
    push([recorded("ar", failed=RuntimeError("the disk is full"))], server.collector)
    (span,) = server.spans
    assert (span.status.code, span.status.message) == (2, "")
    assert values(span)["error.type"] == "RuntimeError"


def test_batches_headers_and_resource(recorded: Recorded, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL_EXPORTER_OTLP_HEADERS, "authorization=Bearer%20x,x-a=1")
    record = recorded("ar")
    calls = [replace(record, call=f"call {number}") for number in range(BATCH + 1)]
    assert push(calls, Collector(url=f"{server.url}/deep/path", headers={"x-a": "2"})) == 2 * len(calls)
    assert [path for path, _, _ in server.posts] == ["/deep/path"] * 2
    headers = {name.lower(): value for name, value in server.posts[0][1].items()}
    assert (headers["authorization"], headers["x-a"]) == ("Bearer x", "2")
    assert headers["content-type"] == "application/x-protobuf"
    attributes = {key.key: key.value.string_value for key in server.posts[0][2].resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "trimode"
    monkeypatch.setenv(OTEL_SERVICE_NAME, "travel desk")
    assert resource().attributes["service.name"] == "travel desk"


def test_refusals_are_told_in_the_collectors_words(recorded: Recorded, server: Server) -> None:
    record = recorded("ar")
    server.status, server.answer = 415, b"only JSON here"
    with pytest.raises(TrimodeError, match=r"0 were sent before.*HTTP 415 only JSON here"):
        push([record], server.collector)
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans, response.partial_success.error_message = 2, "quota"
    server.status, server.answer = 200, response.SerializeToString()
    with pytest.raises(TrimodeError, match="2 of 2 rejected: quota"):
        push([record], server.collector)
    server.answer = b"<!doctype html>"
    with pytest.raises(TrimodeError, match="not an OTLP collector"):
        push([record], server.collector)
    with pytest.raises(TrimodeError, match="did not take the spans"):
        push([record], collector("http://127.0.0.1:9"))


def test_switched_off_tracing_is_no_silent_success(
    recorded: Recorded, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OTEL_SDK_DISABLED, "true")
    with pytest.raises(PolicyError, match="OTEL_SDK_DISABLED"):
        push([recorded("ar")], server.collector)


def test_collectors_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHOENIX_COLLECTOR_ENDPOINT", "PHOENIX_PROJECT_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    assert collector("phoenix") == Collector(
        url="http://127.0.0.1:6006/v1/traces", headers={"x-project-name": "trimode"}
    )
    assert collector("mlflow") == Collector(
        url="http://127.0.0.1:5000/v1/traces", headers={"x-mlflow-experiment-id": "0"}, timeout=30
    )
    assert collector("https://host").url == "https://host/v1/traces"
    assert collector("https://host/own").url == "https://host/own"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ml:1/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("PHOENIX_COLLECTOR_ENDPOINT", "http://phx:2")
    assert collector("mlflow") == Collector(
        url="http://ml:1/v1/traces", headers={"x-mlflow-experiment-id": "7"}, timeout=30
    )
    assert collector("phoenix").url == "http://phx:2/v1/traces"


@pytest.mark.parametrize("to", ["", "jaeger", "file:", "file", "ftp://x", "http://", "phoenix ", "console:x"])
def test_unknown_places_are_refused(to: str, provider: TracerProvider) -> None:
    with pytest.raises(PolicyError, match=r"expected"):
        trimode.trace(to=to)
    assert not provider._active_span_processor._span_processors  # pyright: ignore[reportPrivateUsage]


def test_a_missing_extra_is_named(
    recorded: Recorded, server: Server, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry.exporter.otlp"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for act in (lambda: push([recorded("ar")], server.collector), lambda: trimode.trace(to=server.url)):
        with pytest.raises(TrimodeError, match=r"pip install 'trimode\[otlp\]'"):
            act()
    assert not provider._active_span_processor._span_processors  # pyright: ignore[reportPrivateUsage]


def test_trace_adds_to_the_installed_provider_once(
    recorded: Recorded, server: Server, provider: TracerProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    own = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(own))
    for _ in range(3):
        trimode.trace(to=server.url)
        trimode.trace(to="console")
    record = recorded("linear_spec")
    CallSpan(call=record.call, model="tiny", step="act", kind="json", tracer=provider.get_tracer("t"), meter=None).end(
        record
    )
    assert provider.force_flush()
    names = ["chat tiny", "decode linear_spec"]
    assert sorted(span.name for span in own.get_finished_spans()) == names, "what was there stays"
    assert sorted(span.name for span in server.spans) == names
    decode, call = sorted(capsys.readouterr().err.splitlines(), key=lambda line: line.startswith("chat"))
    assert call.startswith("chat tiny  ")
    assert "drafts" in decode


def test_a_provider_that_takes_no_processors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "get_tracer_provider", api.NoOpTracerProvider)
    with pytest.raises(PolicyError, match="NoOpTracerProvider takes no span processors"):
        trimode.trace(to="console")


def test_without_a_provider_one_is_installed_and_only_by_the_call() -> None:
    code = """
import trimode, trimode.integrations.tracing.setup
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
trimode.trace(to="console")
first = trace.get_tracer_provider()
assert isinstance(first, TracerProvider) and first.resource.attributes["service.name"] == "trimode"
trimode.trace(to="console")
assert trace.get_tracer_provider() is first
trace.get_tracer("own").start_span("mine").end()
import sys
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["mine"]


def test_file_records_every_call_once(reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for to in ("file:all.jsonl", f"file:{tmp_path}/all.jsonl"):
        trimode.trace(to=to)

    @trimode.step("prose", max_tokens=3)
    def say() -> str:
        return "Hello"

    reference.generate(prompt="a", max_tokens=2)
    with session(reference, trace="file:own.jsonl"):
        say()
    with session(reference, trace=f"file:{tmp_path}/all.jsonl"):
        say()
    assert [record.step for record in records(read_audit("all.jsonl"))] == ["generate", "say", "say"]
    assert len(records(read_audit("own.jsonl"))) == 1
    assert not records(read_audit("all.jsonl"))[0].has_content


def test_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(trimode.AuditFileRefused, match="taken"):
        trimode.trace(to=f"file:{tmp_path}/taken/audit.jsonl")
    assert everywhere.audit_files() == ()
    assert everywhere.audit_files(own := AuditFile(tmp_path / "own.jsonl")) == (own,)
