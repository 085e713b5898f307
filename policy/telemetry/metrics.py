"""Counters and histograms over calls: duration, tokens, acceptance.

Knows records, names and the OpenTelemetry API, which does nothing without an SDK. Does not know spans.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.util.types import AttributeValue

from ..audit import CallRecord, versions
from . import names

Labels = dict[str, AttributeValue]
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Instruments:
    """The instruments of one meter; `instruments` makes them."""

    def __init__(self, meter: Meter) -> None:
        self.duration: Histogram = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="Duration of a call",
            explicit_bucket_boundaries_advisory=_SECONDS,
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
        self.acceptance: Histogram = meter.create_histogram(
            names.ACCEPTANCE_RATE,
            unit="1",
            description="Accepted of the drafted tokens of a call",
            explicit_bucket_boundaries_advisory=_RATES,
        )

    def used(self, seconds: float, labels: Labels, record: CallRecord | None) -> None:
        """Counts duration and tokens of an inference. Not for calls inside a host's inference span, because the host
        counts those."""
        self.duration.record(seconds, labels)
        if record is None or record.counts is None:
            return
        tokens = {**labels, names.TOKEN_MODALITY: "text"}
        self.input.add(record.counts.prompt_tokens, tokens)
        self.output.add(record.counts.output_tokens, tokens)
        self.cached.add(record.counts.cached_tokens, tokens)

    def drafted(self, record: CallRecord) -> None:
        """Records the acceptance rate of each mode of a call that drafted anything."""
        drafted, accepted = defaultdict[str, int](int), defaultdict[str, int](int)
        for round_ in record.rounds:
            drafted[round_.mode] += round_.drafted
            accepted[round_.mode] += round_.accepted
        for mode, count in drafted.items():
            if count:
                labels = {names.DECODE_MODE: mode, names.STEP_KIND: record.kind}
                self.acceptance.record(accepted[mode] / count, labels)


@cache
def instruments(meter: Meter | None) -> Instruments:
    """Returns the instruments of `meter`, or of the global meter provider's; made once."""
    return Instruments(meter or metrics.get_meter(names.SCOPE, versions()["trimode"]))
