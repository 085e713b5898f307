"""Spans from recorded calls, for a collector that was not running when they ran.

Knows records and the OpenTelemetry SDK. Does not know collectors. Attributes are those that `CallSpan` sets for any
call. Span ids are derived from the call's id, so that sending twice gives the same spans; times are the recorded ones.
What a record lacks, such as the agent's span around the call and the messages of the prompt, is not sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from trimode.policy.audit import CallRecord, captures, versions
from trimode.policy.errors import PolicyError
from trimode.policy.telemetry import CallSpan, names

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_UNMEASURED: Final = NoOpMeter(names.SCOPE)
"""A meter that drops everything, because the call was counted in metrics when it ran."""


class Resender:
    """Turns records into finished spans of one `resource`. Not safe for several threads.

    `content`: put recorded text and drafts on spans; None follows `content.captures`.
    """

    content: bool

    def __init__(self, resource: Resource, content: bool | None = None) -> None:
        self.content = captures("span", content)
        self._ids = _CallIds()
        self._done = InMemorySpanExporter()
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._done))
        self._tracer = provider.get_tracer(names.SCOPE, versions()["trimode"])

    def spans(self, record: CallRecord) -> Iterator[ReadableSpan]:
        """Yields the call's decode spans, then their parents. Raises PolicyError where tracing is switched off."""
        self._ids.start(record.call)
        self._done.clear()
        CallSpan(
            call=record.call,
            model=record.runtime.model,
            step=record.step,
            kind=record.kind,
            content=self.content and record.has_content,
            tracer=self._tracer,
            agent=record.agent,
            session=record.session,
            meter=_UNMEASURED,
            parent=Context(),
        ).end(record)
        if not self._done.get_finished_spans():
            raise PolicyError("OTEL_SDK_DISABLED switches all spans off; unset it to send recorded calls")
        for span in self._done.get_finished_spans():
            yield span if span.name.startswith("decode ") else _timed(span, record)


class _CallIds(IdGenerator):
    """Generates ids as digests of the call's id: one for the trace, then one for each span in order."""

    def start(self, call: str) -> None:
        self._call, self._spans = call, 0

    def generate_trace_id(self) -> int:
        return self._digest("trace", _TRACE_BYTES)

    def generate_span_id(self) -> int:
        self._spans += 1
        return self._digest(f"span {self._spans}", _SPAN_BYTES)

    def _digest(self, what: str, size: int) -> int:
        return int.from_bytes(sha256(f"trimode {what} {self._call}".encode()).digest()[:size], "big")


def _timed(span: ReadableSpan, record: CallRecord) -> ReadableSpan:
    """Returns the span with the recorded times of the call. Decode spans have theirs already."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        kind=span.kind,
        status=span.status,
        start_time=record.start_ns,
        end_time=record.end_ns,
        instrumentation_scope=span.instrumentation_scope,
    )
