"""What the programs share: one engine, and the spans of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def engine() -> tm.Engine:
    """The bundled checkpoint."""
    return tm.Engine.load()


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Where a test's audit file goes."""
    return tmp_path / "audit.jsonl"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """A tracer provider that is everybody's during the test."""
    found = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found)
    yield found
    found.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    """The finished spans."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter
