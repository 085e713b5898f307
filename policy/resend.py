"""Recorded calls as spans again, for a collector that was not there when they ran.

Knows records, their attributes and the OpenTelemetry SDK. Ids come from the call's id alone, so sending twice gives the
same spans; times are the recorded ones. What a record does not hold, such as the parent span of the agent and the
messages of the prompt, is not on these spans.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import IdGenerator, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.util.types import AttributeValue

from . import names
from .attributes import Attributes, content_of, decode_attributes, message_json, parts_of, record_attributes
from .content import captures
from .errors import PolicyError
from .record import CallRecord, versions

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


class Resender:
    """Turns records into finished spans of one `resource`. Not for several threads.

    `content`: put the text and drafts that records hold on spans; None asks `content.captures`.
    """

    def __init__(self, resource: Resource, content: bool | None = None) -> None:
        self.content = captures("span", content)
        self._ids = _CallIds()
        self._done = InMemorySpanExporter()
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._done))
        self._tracer = provider.get_tracer(names.SCOPE, versions()["trimode"])

    def spans(self, record: CallRecord) -> Sequence[ReadableSpan]:
        """The call's decode spans, then its own. Raises PolicyError where tracing is switched off."""
        self._ids.start(record.call)
        self._done.clear()
        self._send(record)
        found = self._done.get_finished_spans()
        if not found:
            raise PolicyError("OTEL_SDK_DISABLED switches all spans off; unset it to send recorded calls")
        return found

    def _send(self, record: CallRecord) -> None:
        span = self._tracer.start_span(
            f"{names.OPERATION} {record.runtime.model}",
            context=Context(),
            kind=SpanKind.INTERNAL,
            start_time=record.start_ns,
            attributes=_known(_labels(record) | record_attributes(record) | (_answer(record) if self.content else {})),
        )
        inside = set_span_in_context(span, Context())
        for part in parts_of(record):
            told = self.content and record.has_content
            attributes = decode_attributes(part) | (content_of(part) if told else {})
            child = self._tracer.start_span(
                f"decode {part.mode}", inside, start_time=part.start_ns, attributes=_known(attributes)
            )
            child.end(part.end_ns)
        if record.error is not None:
            span.set_attribute(names.ERROR_TYPE, record.error)
            span.set_status(Status(StatusCode.ERROR, record.error_message if self.content else None))
        span.end(record.end_ns)


class _CallIds(IdGenerator):
    """Digests of the call's id: the trace's, then one for each span in order."""

    def start(self, call: str) -> None:
        self._call, self._spans = call, 0

    def generate_trace_id(self) -> int:
        return self._digest("trace", _TRACE_BYTES)

    def generate_span_id(self) -> int:
        self._spans += 1
        return self._digest(f"span {self._spans}", _SPAN_BYTES)

    def _digest(self, what: str, size: int) -> int:
        return int.from_bytes(sha256(f"trimode {what} {self._call}".encode()).digest()[:size], "big")


def _labels(record: CallRecord) -> Attributes:
    return {
        names.GEN_AI_OPERATION_NAME: names.OPERATION,
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        names.GEN_AI_REQUEST_MODEL: record.runtime.model,
        names.STEP_KIND: record.kind,
        names.ATTRIBUTE_SCHEMA: names.SCHEMA_VERSION,
        names.AUDIT_ID: record.call,
        names.STEP_NAME: record.step,
    }


def _answer(record: CallRecord) -> Attributes:
    if record.text is None:
        return {}
    answer = [{**message_json("assistant", record.text), "finish_reason": record.finish_reason}]
    return {names.GEN_AI_OUTPUT_MESSAGES: json.dumps(answer, ensure_ascii=False)}


def _known(attributes: Attributes) -> dict[str, AttributeValue]:
    return {key: value for key, value in attributes.items() if value is not None}
