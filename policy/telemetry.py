"""One call as spans: an inference span for the call, and below it a `decode <mode>` span for each run of one mode.

Knows records, names and the OpenTelemetry API; without an SDK all of it does nothing. Does not know the engine. No span
is ever made current: a token held across a `yield` would break when a stream is left early.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue
from pydantic import JsonValue

from . import names
from .attributes import Attributes, content_of, decode_attributes, message_json, parts_of, record_attributes
from .content import captures
from .record import CallRecord, StepKind, error_type, versions


class CallSpan:
    """Owns the span of one call from start to end. `context` is where child spans, such as a tool's, belong.

    `content`: put prompt, output and drafts on spans; None asks `content.captures`. `parent`: None takes the current one.
    """

    def __init__(
        self,
        *,
        call: str,
        model: str,
        step: str,
        kind: StepKind,
        messages: Sequence[Mapping[str, JsonValue]] = (),
        content: bool | None = None,
        tracer: Tracer | None = None,
        meter: Meter | None = None,
        parent: Context | None = None,
    ) -> None:
        self._content = captures("span", content)
        self._tracer = tracer or trace.get_tracer(names.SCOPE, versions()["trimode"])
        self._duration = _duration(meter)
        self._labels: dict[str, AttributeValue] = {
            names.GEN_AI_OPERATION_NAME: names.OPERATION,
            names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
            names.GEN_AI_REQUEST_MODEL: model,
            names.STEP_KIND: kind,
        }
        self._begin = time.perf_counter()
        self._span = self._tracer.start_span(
            f"{names.OPERATION} {model}", context=parent, kind=SpanKind.INTERNAL, attributes=self._labels
        )
        self.context = trace.set_span_in_context(self._span, parent)
        self._open = True
        self._put({names.ATTRIBUTE_SCHEMA: names.SCHEMA_VERSION, names.AUDIT_ID: call, names.STEP_NAME: step})
        if self._content and messages:
            said = [message_json(str(message["role"]), str(message["content"])) for message in messages]
            self._put({names.GEN_AI_INPUT_MESSAGES: json.dumps(said, ensure_ascii=False)})

    def end(self, record: CallRecord | None = None, error: BaseException | None = None) -> None:
        """Writes what is known, then ends the span; call it in `finally`. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        try:
            if record is not None and self._span.is_recording():
                self._write(record)
            self._fail(record, error)
        finally:
            self._span.end()
            self._duration.record(time.perf_counter() - self._begin, self._labels)

    def _write(self, record: CallRecord) -> None:
        self._put(record_attributes(record))
        if self._content and record.text is not None:
            answer = [{**message_json("assistant", record.text), "finish_reason": record.finish_reason}]
            self._put({names.GEN_AI_OUTPUT_MESSAGES: json.dumps(answer, ensure_ascii=False)})
        for part in parts_of(record):
            attributes = decode_attributes(part) | (content_of(part) if self._content else {})
            span = self._tracer.start_span(f"decode {part.mode}", context=self.context, start_time=part.start_ns)
            span.set_attributes(_known(attributes))
            span.end(part.end_ns)

    def _put(self, attributes: Attributes) -> None:
        self._span.set_attributes(_known(attributes))

    def _fail(self, record: CallRecord | None, error: BaseException | None) -> None:
        kind = error_type(error) if error is not None else record.error if record is not None else None
        if kind is None:
            return
        message = str(error) if error is not None else record.error_message if record is not None else None
        self._labels[names.ERROR_TYPE] = kind
        self._span.set_attribute(names.ERROR_TYPE, kind)
        self._span.set_status(Status(StatusCode.ERROR, message if self._content else None))


def _known(attributes: Attributes) -> dict[str, AttributeValue]:
    return {key: value for key, value in attributes.items() if value is not None}


@cache
def _duration(meter: Meter | None) -> Histogram:
    meter = meter or metrics.get_meter(names.SCOPE, versions()["trimode"])
    return meter.create_histogram(names.OPERATION_DURATION, unit="s", description="Duration of a call")
