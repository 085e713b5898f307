"""One call as spans: an inference span for the call, and below it a `decode <mode>` span for each run of one mode.

Knows records, names and the OpenTelemetry API, which does nothing without an SDK. Does not know the engine. No span is
ever made current, because a context token kept across a `yield` would break when a stream is left early.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue
from pydantic import JsonValue

from ..audit import CallRecord, Redact, StepKind, captures, clipped, newest, redacted_text, versions
from ..errors import error_type
from . import names
from .attributes import (
    Attributes,
    choice_attributes,
    content_of,
    decode_attributes,
    message_json,
    parts_of,
    record_attributes,
)
from .metrics import instruments


class OwnedSpan:
    """A span from start to end, of kind INTERNAL and never current. `context` is the parent context of its children.

    The span lasts as long as `end` returns, by the monotonic clock, so that a metric says the same as the span.
    """

    context: Context

    def __init__(
        self, name: str, attributes: Mapping[str, AttributeValue], parent: Context | None, tracer: Tracer | None = None
    ) -> None:
        self._began, self._start = time.perf_counter_ns(), time.time_ns()
        self.span: Span = (tracer or library_tracer()).start_span(
            name, context=parent, kind=SpanKind.INTERNAL, attributes=attributes, start_time=self._start
        )
        self.context = trace.set_span_in_context(self.span, parent)

    def put(self, attributes: Attributes) -> None:
        self.span.set_attributes(known(attributes))

    def end(self, failed: str | None = None, message: str | None = None) -> float:
        """Ends the span; returns its seconds. `failed`: the error's type. `message` is content; pass it only where
        content may be shown."""
        if failed is not None:
            self.span.set_attribute(names.ERROR_TYPE, failed)
            self.span.set_status(Status(StatusCode.ERROR, message))
        lasted = time.perf_counter_ns() - self._began
        self.span.end(self._start + lasted)
        return lasted / 1e9


class CallSpan:
    """Owns the spans of one call from start to end.

    A plan step's inference span is the child of a `plan` span. Where `parent` (default: the current context) has an
    inference span of a host SDK, that one serves as the call's, and only decode spans are added. `content`: put prompt,
    output and drafts on spans; None follows `content.captures`; `redact` is applied to them first.
    """

    def __init__(
        self,
        *,
        call: str,
        model: str,
        step: str,
        kind: StepKind,
        messages: Sequence[Mapping[str, JsonValue]] = (),
        agent: str | None = None,
        session: str | None = None,
        streamed: bool = False,
        redact: Redact | None = None,
        content: bool | None = None,
        tracer: Tracer | None = None,
        meter: Meter | None = None,
        parent: Context | None = None,
    ) -> None:
        self._content, self._redact, self._cuts = captures("span", content), redact, list[str]()
        self._tracer, self._metrics = tracer or library_tracer(), instruments(meter)
        self._labels: dict[str, AttributeValue] = {
            names.GEN_AI_OPERATION_NAME: names.CHAT,
            names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
            names.GEN_AI_REQUEST_MODEL: model,
            names.STEP_KIND: kind,
        }
        self._about: Attributes = {
            names.ATTRIBUTE_SCHEMA: names.SCHEMA_VERSION,
            names.AUDIT_ID: call,
            names.SESSION_ID: session,
            names.STEP_NAME: step,
        }
        self._begin, self._chunks = time.perf_counter(), list[float]()
        self._own: list[OwnedSpan] = []
        """Spans of this call, the outermost first; none where the host's inference span serves."""
        if not in_inference(parent):
            if kind == "plan":
                parent = self._open(f"{names.PLAN} {agent or ''}".rstrip(), _phase(agent), parent)
            about = {**self._labels, **self._about, names.GEN_AI_REQUEST_STREAM: streamed or None}
            parent = self._open(f"{names.CHAT} {model}", known(about | self._input(messages)), parent)
        self.context = parent

    def chunk(self, at: float) -> None:
        """Notes that a piece of a stream arrived, at a time of `time.perf_counter`."""
        self._chunks.append(at)

    def end(self, record: CallRecord | None = None, error: BaseException | None = None) -> None:
        """Sets the attributes and ends the spans; call it in `finally`. A second call does nothing."""
        if not self._begin:
            return
        began, self._begin = self._begin, 0.0
        failed = error_type(error) if error is not None else record.error if record is not None else None
        message = str(error) if error is not None else record.error_message if record is not None else None
        try:
            if record is not None:
                self._write(record, began)
        finally:
            shown = clipped(redacted_text(self._redact, message))[0] if self._content and message else None
            seconds = [span.end(failed, shown) for span in reversed(self._own)]
            if seconds:
                self._metrics.used(seconds[0], self._labels, failed, record)
                self._metrics.streamed(
                    [after - before for before, after in pairwise([began, *self._chunks])], self._labels
                )
            if record is not None:
                self._metrics.drafted(record)

    def _open(self, name: str, attributes: Mapping[str, AttributeValue], parent: Context | None) -> Context:
        self._own.append(OwnedSpan(name, attributes, parent, self._tracer))
        return self._own[-1].context

    def _write(self, record: CallRecord, began: float) -> None:
        if self._own and self._own[-1].span.is_recording():
            first: Attributes = {
                names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: self._chunks[0] - began if self._chunks else None
            }
            own = record_attributes(record) | first | self._output(record) | choice_attributes(record, self._content)
            self._own[-1].put(own)
        elif self._own:
            return
        # A host's span is never written to, so the call's own attributes are set on its decode spans instead.
        shared = (
            {} if self._own else self._about | _trimode_only(record_attributes(record)) | _trimode_only(self._labels)
        )
        for part in parts_of(record):
            attributes = decode_attributes(part) | (content_of(part) if self._content and record.has_content else {})
            span = self._tracer.start_span(f"decode {part.mode}", context=self.context, start_time=part.start_ns)
            span.set_attributes(known(shared | attributes))
            span.end(part.end_ns)

    def _input(self, messages: Sequence[Mapping[str, JsonValue]]) -> Attributes:
        if not self._content or not messages:
            return {}
        texts, cut = newest(redacted_text(self._redact, str(message["content"])) for message in messages)
        kept = zip(messages[len(messages) - len(texts) :], texts, strict=True)
        shown = [message_json(str(message["role"]), text) for message, text in kept]
        return self._limited(names.GEN_AI_INPUT_MESSAGES, json.dumps(shown, ensure_ascii=False), cut)

    def _output(self, record: CallRecord) -> Attributes:
        if not self._content or record.text is None:
            return {}
        text, cut = clipped(record.text)
        answer = json.dumps([message_json("assistant", text)], ensure_ascii=False)
        return self._limited(names.GEN_AI_OUTPUT_MESSAGES, answer, cut)

    def _limited(self, key: str, value: str, cut: str) -> Attributes:
        self._cuts += [f"{key}: {cut}"] if cut else []
        return {key: value, names.CONTENT_CUT: tuple(self._cuts) or None}


def library_tracer() -> Tracer:
    """Returns the library's tracer of the current global provider."""
    return _tracer(trace.get_tracer_provider())


@lru_cache(maxsize=4)  # cached, because the SDK adds a process-wide warnings filter each time
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(names.SCOPE, versions()["trimode"])


def in_inference(context: Context | None) -> bool:
    """Returns whether the span of `context` (default: the current one) is an inference span of a host SDK."""
    attributes: Mapping[str, object] = getattr(trace.get_current_span(context), "attributes", None) or {}
    return attributes.get(names.GEN_AI_OPERATION_NAME) in names.INFERENCES


def known(attributes: Attributes) -> dict[str, AttributeValue]:
    """Returns the attributes without those whose value is None."""
    return {key: value for key, value in attributes.items() if value is not None}


def _phase(agent: str | None) -> dict[str, AttributeValue]:
    return known({names.GEN_AI_OPERATION_NAME: names.PLAN, names.GEN_AI_AGENT_NAME: agent})


def _trimode_only(attributes: Mapping[str, AttributeValue | None]) -> Attributes:
    return {key: value for key, value in attributes.items() if key.startswith(f"{names.SCOPE}.")}
