"""Recipes of docs/backends.md for collectors elsewhere, against a loopback server that checks what each requires.

Requirements are those that the vendors' own SDKs fulfil: langfuse 5.0.4 (`_client/span_processor.py`) and logfire
(`_internal/config.py`, `_internal/auth.py`). The dashboard's queries are compared with the metrics that calls record.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import trimode as tm
from trimode.integrations.tracing.collector import collector, exporter
from trimode.policy.audit.record import CallRecord
from trimode.policy.calls.fake_engine import FakeEngine
from trimode.policy.telemetry.metrics import Instruments

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "backends.md"
DASHBOARD: Final = ROOT / "examples" / "dashboards" / "grafana.json"
KEYS: Final = {"LANGFUSE_PUBLIC_KEY": "pk-1", "LANGFUSE_SECRET_KEY": "sk-22", "LOGFIRE_TOKEN": "pylf_v1_eu_abc"}
BASIC: Final = "Basic " + base64.b64encode(b"pk-1:sk-22").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a service requires of a request: its path and headers."""

    path: str
    headers: Mapping[str, str]


SERVICES: Final = {
    "langfuse": Service(
        path="/api/public/otel/v1/traces", headers={"authorization": BASIC, "x-langfuse-ingestion-version": "4"}
    ),
    "logfire": Service(path="/v1/traces", headers={"authorization": KEYS["LOGFIRE_TOKEN"]}),
}


@dataclass
class Listener:
    """A service on loopback. `spans`: names of those that it took; `refused`: why it refused a request."""

    service: Service
    url: str = ""
    spans: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Returns the status of the answer."""
        required = {**self.service.headers, "content-type": "application/x-protobuf"}
        wrong = [name for name, value in required.items() if headers.get(name) != value]
        if path != self.service.path or wrong:
            self.refused.append(f"{path} {wrong}")
            return 404 if path != self.service.path else 401
        message = ExportTraceServiceRequest.FromString(body)
        self.spans += [span.name for one in message.resource_spans for scope in one.scope_spans for span in scope.spans]
        return 200


@pytest.fixture(params=SERVICES)
def named(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def listener(named: str) -> Iterator[Listener]:
    found = Listener(SERVICES[named])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = found.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


def recipe(named: str, url: str) -> str:
    """The page's script for a service, with its address replaced by that of the listener."""
    found = re.search(rf"<!-- {named} -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    script, replaced = re.subn(r"https://[a-z.-]+", url, found[1])
    assert replaced == 1
    return f'trimode() {{ "{sys.executable}" -m trimode "$@"; }}\n{script}\nprintf %s "$OTEL_EXPORTER_OTLP_HEADERS"'


def ran(script: str, folder: Path, **keys: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        ["bash", "-euc", script], env={**kept, **KEYS, **keys}, cwd=folder, capture_output=True, text=True
    )


def test_the_recipe_is_what_the_service_requires(
    named: str, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed by the page's own lines; then live, by the headers that they set."""
    engine = FakeEngine()
    with tm.session(engine, trace=f"file:{tmp_path / 'audit.jsonl'}"):
        engine.generate("hello", max_tokens=4)
    done = ran(recipe(named, listener.url), tmp_path)
    assert done.returncode == 0, done.stderr
    assert any(name.startswith("decode ") for name in listener.spans)
    listener.spans.clear()
    monkeypatch.setenv(OTEL_EXPORTER_OTLP_HEADERS, done.stdout.splitlines()[-1])
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter(collector(listener.url + listener.service.path))))
    provider.get_tracer("test").start_span("live").end()
    assert listener.spans == ["live"]
    assert listener.refused == []


def test_wrong_keys_are_told(named: str, listener: Listener, tmp_path: Path) -> None:
    engine = FakeEngine()
    with tm.session(engine, trace=f"file:{tmp_path / 'audit.jsonl'}"):
        engine.generate("hello", max_tokens=4)
    done = ran(recipe(named, listener.url), tmp_path, LANGFUSE_SECRET_KEY="other", LOGFIRE_TOKEN="other")
    assert done.returncode == 2
    assert "HTTP 401" in done.stderr


def prometheus(metric: Metric) -> Iterator[tuple[str, set[str]]]:
    """The series that a metric becomes, by OpenTelemetry's rules for Prometheus, and their labels."""
    unit = {"s": "_seconds"}.get(metric.unit or "", "")
    name = metric.name.replace(".", "_") + unit
    labels = {str(key).replace(".", "_") for point in metric.data.data_points for key in point.attributes or {}}
    if metric.data.data_points and hasattr(metric.data.data_points[0], "bucket_counts"):
        yield from ((f"{name}_{part}", labels | {"le"}) for part in ("bucket", "sum", "count"))
    else:
        yield f"{name}_total", labels


def test_the_dashboard_asks_for_metrics_that_are_there(recorded: Callable[..., CallRecord]) -> None:
    """Every series and label in its queries is one that calls record."""
    reader = InMemoryMetricReader()
    made = Instruments(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    record = recorded("linear_spec")
    made.used(1.0, {"trimode.step.kind": "json", "gen_ai.request.model": "m"}, "SomeError", record)
    made.streamed([0.1, 0.2], {"trimode.step.kind": "json"})
    made.drafted(record)
    data = reader.get_metrics_data()
    assert data is not None
    series = {
        name: labels
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for name, labels in prometheus(metric)
    }
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) >= 6
    for query in queries:
        asked = re.findall(r"\b((?:gen_ai|trimode)_\w+)(?:\{([^}]*)\})?\[", query)
        assert asked, query
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", query)) | set(re.findall(r"by \(([^)]*)\)", query))
        wanted = {label.strip() for part in labels for label in part.split(",")}
        for name, _ in asked:
            assert name in series, query
            assert wanted <= series[name], query
