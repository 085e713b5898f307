"""The span contract: names, parents and values, for whole, failed and abandoned calls."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import (  # pyright: ignore[reportMissingTypeStubs]
    gen_ai_attributes,
)
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode

from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.record import CallRecord
from trimode.policy.telemetry import names
from trimode.policy.telemetry.spans import CallSpan

Recorded = Callable[..., CallRecord]
MESSAGES: Sequence[Mapping[str, Any]] = [{"role": "user", "content": "Book a train"}]

CALL = {
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.request.seed",
    "gen_ai.request.temperature", "gen_ai.request.top_p", "gen_ai.request.max_tokens", "gen_ai.request.stop_sequences",
    "gen_ai.output.type", "gen_ai.response.id", "gen_ai.response.model", "gen_ai.response.finish_reasons",
    "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.cache_read.input_tokens",
    "trimode.schema_version", "trimode.audit.id", "trimode.step.name", "trimode.step.kind", "trimode.policy.name",
    "trimode.policy.version", "trimode.policy.sha256", "trimode.decode.reason", "trimode.decode.modes",
    "trimode.decode.prefill_passes", "trimode.schema.sha256", "trimode.schema.valid", "trimode.notes",
    "trimode.model.sha256", "trimode.tokenizer.sha256", "trimode.prompt.sha256", "trimode.output.token_ids.sha256",
    "trimode.device", "trimode.dtype", "trimode.kernels", "trimode.exactness",
}  # fmt: skip
CALL_CONTENT = {"gen_ai.input.messages", "gen_ai.output.messages"}
DECODE = {
    "openinference.span.kind", "trimode.decode.mode", "trimode.decode.output_tokens", "trimode.decode.forward_passes",
    "trimode.decode.tokens_per_forward", "trimode.decode.corrected_tokens", "trimode.decode.forced_tokens",
    "trimode.decode.repaired_tokens", "trimode.draft.proposed_tokens", "trimode.draft.accepted_tokens",
    "trimode.draft.rejected_tokens",
}  # fmt: skip
DRAFT = {
    "trimode.draft.acceptance_rate", "trimode.draft.proposed", "trimode.draft.accepted", "trimode.draft.tape",
}  # fmt: skip
METRIC = re.compile(r"gen_ai\.(client|invoke_agent|execute_tool)\.")
DECODE_CONTENT = {"input.value", "output.value", "metadata"}


class Spans:
    """A tracer of its own, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    def open(self, record: CallRecord, **more: Any) -> CallSpan:
        return CallSpan(
            call=record.call,
            model="tiny",
            step=record.step,
            kind=record.kind,
            tracer=self.tracer,
            messages=MESSAGES,
            **more,
        )

    def of(self, record: CallRecord, **more: Any) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The call's span and its decode spans."""
        self.open(record, **more).end(record)
        return self.finished()

    def finished(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        *decodes, call = self.exporter.get_finished_spans()
        self.exporter.clear()
        return call, decodes


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    monkeypatch.delenv(SWITCH, raising=False)
    return Spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("mode", ["ar", "diffusion", "linear_spec"])
@pytest.mark.parametrize("content", [False, True])
def test_exact_set_of_attributes(recorded: Recorded, spans: Spans, mode: str, content: bool) -> None:
    record = recorded(mode, schema=True, notes=("asked for quadratic_spec",))
    call, (decode,) = spans.of(record, content=content)
    assert set(attributes(call)) == CALL | (CALL_CONTENT if content else set())
    groups = (
        (mode != "ar", DRAFT),
        (content, DECODE_CONTENT),
        (content and mode != "ar", {"trimode.draft.rejected"}),
        (mode == "diffusion", {"trimode.block.steps"}),
    )
    expected = DECODE.union(*(keys for wanted, keys in groups if wanted))
    assert set(attributes(decode)) == expected


def test_call_span_follows_the_convention(recorded: Recorded, spans: Spans) -> None:
    record = recorded("linear_spec", schema=True)
    call, (decode,) = spans.of(record)
    found, counts = attributes(call), record.counts
    assert found["trimode.exactness"] == record.runtime.exactness
    assert counts is not None
    assert (call.name, call.kind, call.status.status_code) == ("chat tiny", SpanKind.INTERNAL, StatusCode.UNSET)
    assert found["gen_ai.provider.name"] == "trimode"
    assert found["gen_ai.operation.name"] == "chat"
    assert (found["gen_ai.request.seed"], found["gen_ai.request.max_tokens"]) == (7, 30)
    assert found["gen_ai.request.stop_sequences"] == ("!!",)
    assert found["gen_ai.usage.output_tokens"] == counts.output_tokens
    assert found["gen_ai.response.finish_reasons"] == (record.finish_reason,)
    assert found["trimode.audit.id"] == record.call
    assert found["trimode.decode.modes"] == ("linear_spec",)
    assert decode.parent is not None
    assert call.context is not None
    assert (decode.name, decode.parent.span_id) == ("decode linear_spec", call.context.span_id)


def test_decode_span_tells_the_acceptance_path(recorded: Recorded, spans: Spans) -> None:
    record = recorded("linear_spec", schema=True)
    _, (decode,) = spans.of(record)
    found, counts = attributes(decode), record.counts
    assert counts is not None
    assert sum(found["trimode.draft.proposed"]) == found["trimode.draft.proposed_tokens"] == counts.drafted
    assert sum(found["trimode.draft.accepted"]) == found["trimode.draft.accepted_tokens"] == counts.accepted
    assert found["trimode.draft.rejected_tokens"] == counts.drafted - counts.accepted
    assert found["trimode.draft.acceptance_rate"] == counts.accepted / counts.drafted
    pairs = zip(found["trimode.draft.accepted"], found["trimode.draft.proposed"], strict=True)
    assert found["trimode.draft.tape"] == " ".join(f"{accepted}/{proposed}" for accepted, proposed in pairs)
    assert found["trimode.decode.forced_tokens"] == counts.forced
    assert found["trimode.decode.tokens_per_forward"] == counts.output_tokens / counts.forward_passes


def test_diffusion_tells_its_steps_a_block(recorded: Recorded, spans: Spans) -> None:
    record = recorded("diffusion")
    _, (decode,) = spans.of(record)
    steps = [len(made.fills) for made in record.rounds if made.fills]
    assert list(attributes(decode)["trimode.block.steps"]) == steps != []


def test_a_mode_switch_is_two_decode_spans_in_order(recorded: Recorded, spans: Spans) -> None:
    linear, ar = recorded("linear_spec"), recorded("ar")
    record = replace(linear, rounds=(*linear.rounds, *ar.rounds))
    call, (first, second) = spans.of(record)
    assert attributes(call)["trimode.decode.modes"] == ("linear_spec", "ar")
    assert (first.name, second.name) == ("decode linear_spec", "decode ar")
    found = attributes(second)
    assert (found["trimode.switch.from"], found["trimode.switch.to"]) == ("linear_spec", "ar")
    assert found["trimode.decode.times_estimated"] is True
    assert "trimode.switch.from" not in attributes(first)
    assert first.end_time == second.start_time
    assert record.start_ns <= (first.start_time or 0) <= (second.end_time or 0) <= record.end_ns


def test_content_when_switched_on(recorded: Recorded, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "SPAN_ONLY")
    record = recorded("linear_spec", schema=True)
    call, (decode,) = spans.of(record)
    found = attributes(call)
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Book a train"}]}
    ]
    (answer,) = json.loads(found["gen_ai.output.messages"])
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": record.text}]}
    runs = json.loads(attributes(decode)["trimode.draft.rejected"])
    expected = [[n, token, why] for n, made in enumerate(record.rounds) for token, why in made.rejected]
    assert [[n, token, why] for n, tokens, _, why, _ in runs for token in tokens] == expected
    assert "tape" in attributes(decode)["input.value"]
    assert "| origins |" in attributes(decode)["output.value"]


def test_no_content_leaks_by_default(recorded: Recorded, spans: Spans) -> None:
    record = recorded("linear_spec", failed=ValueError("secret answer"))
    span = spans.open(record)
    span.end(record)
    call, decodes = spans.finished()
    shown = call.to_json() + "".join(decode.to_json() for decode in decodes)
    assert "Book a train" not in shown
    assert "secret answer" not in shown
    assert call.events == ()


def test_failed_call_has_status_and_error_type(recorded: Recorded, spans: Spans) -> None:
    record = recorded("ar", failed=ValueError("too long"))
    call, decodes = spans.of(record, content=True)
    assert decodes == []
    assert (call.status.status_code, call.status.description) == (StatusCode.ERROR, "too long")
    assert attributes(call)["error.type"] == "ValueError"
    assert "gen_ai.usage.output_tokens" not in attributes(call)


def test_call_without_a_record_still_ends(recorded: Recorded, spans: Spans) -> None:
    span = spans.open(recorded("ar"))
    span.end(error=KeyboardInterrupt())
    span.end()
    call, decodes = spans.finished()
    assert decodes == []
    assert attributes(call)["error.type"] == "KeyboardInterrupt"


def test_stream_left_early_ends_its_span_and_no_context_lingers(recorded: Recorded, spans: Spans) -> None:
    record = recorded("ar")

    def stream() -> Iterator[int]:
        span = spans.open(record)
        try:
            yield from record.token_ids or ()
        finally:
            span.end(record)

    events = stream()
    next(events)
    assert not trace.get_current_span().get_span_context().is_valid
    events.close()  # type: ignore[attr-defined]
    call, _ = spans.finished()
    assert call.name == "chat tiny"
    assert call.end_time is not None


def test_the_callers_span_is_the_parent(recorded: Recorded, spans: Spans) -> None:
    record = recorded("ar")
    with spans.tracer.start_as_current_span("invoke_agent trip") as agent:
        spans.open(record).end(record)
        explicit = spans.open(record, parent=trace.set_span_in_context(trace.INVALID_SPAN))
        explicit.end(record)
    calls = [span for span in spans.exporter.get_finished_spans() if span.name == "chat tiny"]
    assert calls[0].parent is not None
    assert calls[0].parent.span_id == agent.get_span_context().span_id
    assert calls[1].parent is None


def test_a_seed_beyond_an_attribute_is_told_as_text(recorded: Recorded, spans: Spans) -> None:
    call, _ = spans.of(recorded("ar", seed=2**64 - 1))
    assert attributes(call)["trimode.request.seed"] == str(2**64 - 1)
    assert "gen_ai.request.seed" not in attributes(call)


def measured(reader: InMemoryMetricReader) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Unit and data points of every metric."""
    data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    metrics = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    return {metric["name"]: (metric["unit"], metric["data"]["data_points"]) for metric in metrics}


def test_duration_tokens_and_acceptance_are_measured(recorded: Recorded, spans: Spans) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    linear = recorded("linear_spec", kind="tool_call")
    for record in (recorded("ar"), recorded("ar", failed=ValueError()), linear, linear):
        spans.of(record, meter=meter)
    found = measured(reader)
    assert set(found) == {
        "gen_ai.client.inference.duration", "gen_ai.client.operation.duration",
        "gen_ai.client.inference.operation.input_tokens", "gen_ai.client.inference.operation.output_tokens",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens", "gen_ai.client.inference.usage.cache_read.input_tokens",
        "trimode.decode.acceptance_rate",
    }  # fmt: skip
    (_, former), (unit, points) = (found[f"gen_ai.client.{what}.duration"] for what in ("operation", "inference"))
    assert [(one["attributes"], one["sum"]) for one in former] == [(one["attributes"], one["sum"]) for one in points]
    assert unit == "s"
    assert sorted(str(point["attributes"].get("error.type")) for point in points) == ["None", "None", "ValueError"]
    assert points[0]["explicit_bounds"][0] == 0.01
    unit, points = found["gen_ai.client.inference.usage.output_tokens"]
    assert unit == "{token}"
    assert linear.counts is not None
    assert {point["attributes"]["trimode.step.kind"]: point["value"] for point in points} == {
        "json": 30, "tool_call": 2 * linear.counts.output_tokens,
    }  # fmt: skip
    assert {point["attributes"]["gen_ai.token.modality"] for point in points} == {"text"}
    for side, count in (("input", linear.counts.prompt_tokens), ("output", linear.counts.output_tokens)):
        unit, points = found[f"gen_ai.client.inference.operation.{side}_tokens"]
        (point,) = [point for point in points if point["attributes"]["trimode.step.kind"] == "tool_call"]
        assert (unit, point["count"], point["sum"]) == ("{token}", 2, 2 * count)
        assert (point["min"], point["max"]) == (count, count)
        assert point["explicit_bounds"][:4] == [1, 4, 16, 64]
        assert "gen_ai.token.modality" not in point["attributes"]
    unit, (point,) = found["trimode.decode.acceptance_rate"]
    assert point["attributes"] == {"trimode.decode.mode": "linear_spec", "trimode.step.kind": "tool_call"}
    assert (unit, point["count"]) == ("1", 2)
    assert point["sum"] == pytest.approx(2 * linear.counts.accepted / linear.counts.drafted)


def test_chunks_of_a_stream_are_measured_from_one_to_the_next(recorded: Recorded, spans: Spans) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    begin = time.perf_counter()
    record = recorded("ar")
    call = spans.open(record, meter=meter, streamed=True)
    for at in (1.0, 1.5, 2.25):
        call.chunk(begin + at)
    call.end(record)
    unopened = spans.open(record, meter=meter, streamed=True)
    unopened.end(record)
    found = measured(reader)
    unit, (first,) = found["gen_ai.client.inference.time_to_first_chunk"]
    assert (unit, first["count"]) == ("s", 1)
    assert first["sum"] == pytest.approx(1, abs=0.5)
    unit, (later,) = found["gen_ai.client.inference.time_per_output_chunk"]
    assert (unit, later["count"]) == ("s", 2)
    assert later["sum"] == pytest.approx(1.25)
    assert "error.type" not in later["attributes"]
    (spanned, _) = (span for span in spans.exporter.get_finished_spans() if span.name == "chat tiny")
    assert attributes(spanned)["gen_ai.response.time_to_first_chunk"] == first["sum"]


def test_a_duration_is_that_of_its_span(recorded: Recorded, spans: Spans) -> None:
    reader = InMemoryMetricReader()
    call, _ = spans.of(recorded("ar"), meter=MeterProvider([reader]).get_meter("test"))
    _, (point,) = measured(reader)["gen_ai.client.inference.duration"]
    assert call.start_time is not None
    assert call.end_time is not None
    assert point["sum"] == (call.end_time - call.start_time) / 1e9


def test_a_host_that_counts_the_call_counts_it_alone(recorded: Recorded, spans: Spans) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    record = recorded("linear_spec")
    with spans.tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
        spans.open(record, meter=meter).end(record)
    assert set(measured(reader)) == {"trimode.decode.acceptance_rate"}


def test_without_an_sdk_nothing_happens(recorded: Recorded) -> None:
    record = recorded("ar")
    CallSpan(call=record.call, model="tiny", step="act", kind="json").end(record)


def test_names_newer_than_the_pinned_package_are_told_apart() -> None:
    """Taken from the GenAI conventions' own repository; where this fails, the package has caught up: compare them."""
    known = gen_ai_attributes.GenAiOperationNameValues  # pyright: ignore[reportDeprecated]
    operations = {value.value for value in known}
    assert {names.CHAT, names.INVOKE_AGENT, names.EXECUTE_TOOL} <= operations
    assert names.PLAN not in operations
    published = [*vars(gen_ai_attributes).values(), *vars(gen_ai_metrics).values()]
    metrics = {name for name in vars(names).values() if isinstance(name, str) and METRIC.match(name)}
    assert len(metrics) == 13
    newer = (metrics - {names.OPERATION_DURATION}) | {names.TOKEN_MODALITY}
    assert not [name for name in newer if name in published]


def test_borrowed_names_are_the_conventions() -> None:
    ours = {name: value for name, value in vars(names).items() if name.startswith("GEN_AI_")}
    assert len(ours) == 27
    assert ours == {name: getattr(gen_ai_attributes, name) for name in ours}
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert names.OPERATION_DURATION == gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION


def test_our_names_are_ours() -> None:
    borrowed = ("gen_ai.", "error.type", "openinference.", "input.value", "output.value", "metadata")
    values = [value for name, value in vars(names).items() if name.isupper() and "." in value]
    assert len(values) == len(set(values))
    assert all(value.startswith(("trimode.", *borrowed)) for value in values)
