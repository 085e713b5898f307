"""Counters and histograms over calls, agents and tools: duration, tokens, chunks, acceptance.

Knows records, names and the OpenTelemetry API, which does nothing without an SDK. Does not know spans.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.util.types import AttributeValue

from ..audit import CallRecord, versions
from . import names

Labels = dict[str, AttributeValue]
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_AGENT_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_TOKENS = tuple(4**power for power in range(14))
_CALLS = (1, 2, 4, 8, 16, 32, 64, 128)
_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Instruments:
    """The instruments of one meter; `instruments` makes them. Bucket boundaries are the convention's."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, bounds: Sequence[float], description: str) -> Histogram:
            return meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=bounds
            )

        self.duration: Histogram = histogram(names.INFERENCE_DURATION, "s", _SECONDS, "Duration of a call")
        self.former_duration: Histogram = histogram(
            names.OPERATION_DURATION, "s", _SECONDS, "Duration of a call, under its former name"
        )
        self.first_chunk: Histogram = histogram(
            names.TIME_TO_FIRST_CHUNK, "s", _SECONDS, "Time to a stream's first chunk"
        )
        self.next_chunk: Histogram = histogram(
            names.TIME_PER_OUTPUT_CHUNK, "s", _SECONDS, "Time between chunks of a stream"
        )
        self.call_input: Histogram = histogram(
            names.OPERATION_INPUT_TOKENS, "{token}", _TOKENS, "Prompt tokens of a call"
        )
        self.call_output: Histogram = histogram(
            names.OPERATION_OUTPUT_TOKENS, "{token}", _TOKENS, "Output tokens of a call"
        )
        self.input: Counter = meter.create_counter(
            names.USAGE_INPUT_TOKENS, unit="{token}", description="Prompt tokens"
        )
        self.output: Counter = meter.create_counter(
            names.USAGE_OUTPUT_TOKENS, unit="{token}", description="Output tokens"
        )
        self.cached: Counter = meter.create_counter(
            names.USAGE_CACHE_READ_INPUT_TOKENS, unit="{token}", description="Prompt tokens found in the prefix cache"
        )
        self.agent_duration: Histogram = histogram(
            names.INVOKE_AGENT_DURATION, "s", _AGENT_SECONDS, "Duration of an agent run"
        )
        self.agent_inferences: Histogram = histogram(
            names.INVOKE_AGENT_INFERENCE_CALLS, "{inference_call}", _CALLS, "Model calls of an agent run"
        )
        self.agent_tools: Histogram = histogram(
            names.INVOKE_AGENT_TOOL_CALLS, "{tool_call}", _CALLS, "Tool calls of an agent run"
        )
        self.tool_duration: Histogram = histogram(
            names.EXECUTE_TOOL_DURATION, "s", _SECONDS, "Duration of a tool execution"
        )
        self.acceptance: Histogram = histogram(
            names.ACCEPTANCE_RATE, "1", _RATES, "Accepted of the drafted tokens of a call"
        )

    def used(self, seconds: float, labels: Labels, failed: str | None, record: CallRecord | None) -> None:
        """Counts duration and tokens of an inference. Not for calls inside a host's inference span, because the host
        counts those."""
        outcome = with_error(labels, failed)
        self.duration.record(seconds, outcome)
        self.former_duration.record(seconds, outcome)
        counts = None if record is None else record.counts if record.remote is None else record.remote.reported
        if counts is None:
            return
        tokens = {**outcome, names.TOKEN_MODALITY: "text"}
        if counts.prompt_tokens is not None:
            self.call_input.record(counts.prompt_tokens, outcome)
            self.input.add(counts.prompt_tokens, tokens)
        if counts.output_tokens is not None:
            self.call_output.record(counts.output_tokens, outcome)
            self.output.add(counts.output_tokens, tokens)
        if counts.cached_tokens is not None:
            self.cached.add(counts.cached_tokens, tokens)

    def streamed(self, chunks: Sequence[float], labels: Labels) -> None:
        """Counts the chunks of a stream. `chunks`: seconds from the request to the first one, then from each to the
        next."""
        for seconds, histogram in zip(chunks, (self.first_chunk, *(self.next_chunk,) * len(chunks)), strict=False):
            histogram.record(seconds, labels)

    def drafted(self, record: CallRecord) -> None:
        """Records the acceptance rate of each mode of a call that drafted anything."""
        drafted, accepted = defaultdict[str, int](int), defaultdict[str, int](int)
        for round_ in record.rounds:
            drafted[round_.mode] += round_.drafted
            accepted[round_.mode] += round_.accepted
        if record.remote is not None and record.remote.reported.accepted is not None:
            mode = str(record.options["mode"])
            drafted[mode] += record.remote.reported.drafted or 0
            accepted[mode] += record.remote.reported.accepted
        for mode, count in drafted.items():
            if count:
                labels = {names.DECODE_MODE: mode, names.STEP_KIND: record.kind}
                self.acceptance.record(accepted[mode] / count, labels)


def with_error(labels: Labels, failed: str | None) -> Labels:
    """Returns the labels, with the error's type where there was one."""
    return labels if failed is None else {**labels, names.ERROR_TYPE: failed}


@cache
def instruments(meter: Meter | None) -> Instruments:
    """Returns the instruments of `meter`, or of the global meter provider's; made once."""
    return Instruments(meter or metrics.get_meter(names.SCOPE, versions()["trimode"]))
