"""A collector that refuses, never answers or is slow: decoding waits for none of it, and no audit record is lost.

Spans go through OpenTelemetry's own queue, which is bounded and counts what it drops; the audit file is written by the
call itself and asks nobody.
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import trimode as tm
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine

QUEUE, BATCH, CALLS = 16, 8, 40


@pytest.fixture
def refusing() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Silent:
    """A port that takes connections and never answers. `arrived`: an export has begun."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.arrived, self.kept = threading.Event(), list[socket.socket]()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.kept.append(self.listener.accept()[0])
            except OSError:
                return
            self.arrived.set()

    def hang_up(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        for connection in (self.listener, *self.kept):
            connection.close()


class Sending:
    """A tracer provider of its own that sends to `port`, with a small queue and its drops counted."""

    def __init__(self, port: int, monkeypatch: pytest.MonkeyPatch, timeout: float = 1) -> None:
        monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces", timeout=timeout)
        self.provider = TracerProvider()
        self.provider.add_span_processor(
            BatchSpanProcessor(
                self.exporter,
                max_queue_size=QUEUE,
                max_export_batch_size=BATCH,
                schedule_delay_millis=20,
                meter_provider=self.meters,
            )
        )
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)

    def counted(self) -> dict[str, int]:
        """Spans by what became of them: handed to the exporter (""), or dropped, by reason."""
        data = json.loads(self.reader.get_metrics_data().to_json())  # type: ignore[union-attr]
        points: dict[str, Any] = {
            metric["name"]: metric["data"]["data_points"]
            for scope in data["resource_metrics"][0]["scope_metrics"]
            for metric in scope["metrics"]
        }
        processed = points["otel.sdk.processor.span.processed"]
        return {point["attributes"].get("error.type", ""): point["value"] for point in processed}

    def close(self) -> None:
        self.provider.shutdown()


def work(engine: Engine, path: Path) -> int:
    """Calls in a recorded session; returns the number of spans that they made."""
    with tm.session(engine, policy=tm.Policy(), agent="trip", trace=f"file:{path}"):
        for at in range(CALLS):
            engine.generate(f"word {at}", max_tokens=1)
    return 2 * CALLS + 1


def test_a_refusing_collector(
    reference: Engine, refusing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = Sending(refusing, monkeypatch)
    made = work(reference, tmp_path / "audit.jsonl")
    sending.exporter.shutdown()  # it would try again for seconds
    sending.close()
    assert sum(sending.counted().values()) == made
    assert verify(tmp_path / "audit.jsonl") == []
    assert len(records(read_audit(tmp_path / "audit.jsonl"))) == CALLS


def test_a_silent_collector_costs_spans_that_are_counted(
    reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an export hangs, every span beyond the queue is dropped and counted; all calls end, all records are there.

    That calls do not wait needs no clock to show: they end before the export does, and a wait would turn that round.
    """
    silent, answered = Silent(), threading.Event()
    sending = Sending(silent.port, monkeypatch, timeout=100)
    export = sending.exporter.export

    def exported(spans: Any) -> Any:
        try:
            return export(spans)
        finally:
            answered.set()

    monkeypatch.setattr(sending.exporter, "export", exported)
    made = work(reference, tmp_path / "first.jsonl")
    assert silent.arrived.wait(60)
    made += work(reference, tmp_path / "second.jsonl")
    assert not answered.is_set(), "the export still hangs, and every call is done"
    counted = sending.counted()
    assert counted["queue_full"] >= made - QUEUE - BATCH
    assert 0 < counted[""] <= BATCH
    for name in ("first", "second"):
        assert verify(tmp_path / f"{name}.jsonl") == []
        assert len(records(read_audit(tmp_path / f"{name}.jsonl"))) == CALLS
    sending.exporter.shutdown()
    silent.hang_up()
    sending.close()
