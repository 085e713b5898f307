"""The bundled reference checkpoint, loaded once for all tests that decode. No test may depend on what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trimode.engine.constraint import Constraint
from trimode.policy.audit.content import SWITCH
from trimode.policy.calls.engine import Engine
from trimode.policy.grammar.raw_matcher import RawMatcher

SHORT: dict[str, Any] = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
    "additionalProperties": False,
}
"""A schema that every output fulfils within a few tokens."""


@pytest.fixture(scope="session")
def reference() -> Engine:
    return Engine.load()


@pytest.fixture(scope="module")
def fresh() -> Iterator[Engine]:
    """A second engine, without any stored prefix."""
    engine = Engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def folder(reference: Engine) -> Path:
    """Where the reference checkpoint lies."""
    return reference.checkpoint.directory


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Every span of the test, without a global tracer that would outlive it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def allowed(matcher: Constraint | RawMatcher) -> list[int]:
    """Ids that may come next."""
    bits = np.unpackbits(np.asarray(matcher.mask()).view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]
