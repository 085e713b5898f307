"""Sends recorded calls to a collector: `trimode audit push`.

Knows records and OTLP/HTTP. Does not know live spans. Sends in order and stops at the first refusal, with the
collector's message, so that no span is dropped silently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import httpx
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.re import parse_env_headers

from trimode.engine.errors import TrimodeError
from trimode.policy.audit import CallRecord

from .collector import Collector, encoded, refused, resource
from .resend import Resender

BATCH: Final = 32
"""Calls in one request."""
PATIENCE: Final = 60.0
"""Seconds for one request; generous, because no decoding waits for it."""


def push(records: Sequence[CallRecord], to: Collector, content: bool | None = None) -> int:
    """Sends the calls as spans and returns the number of spans. Raises TrimodeError where a request is not accepted in
    full.

    `content` as in `Resender`. Headers: the collector's own, over those of OTEL_EXPORTER_OTLP_(TRACES_)HEADERS.
    """
    sent = 0
    with httpx.Client(headers=_headers(to), timeout=PATIENCE) as client:
        for spans in _batches(records, Resender(resource(), content)):
            _post(client, to.url, spans, sent)
            sent += len(spans)
    return sent


def _batches(records: Sequence[CallRecord], resender: Resender) -> Iterator[list[ReadableSpan]]:
    for first in range(0, len(records), BATCH):
        yield [span for record in records[first : first + BATCH] for span in resender.spans(record)]


def _post(client: httpx.Client, url: str, spans: Sequence[ReadableSpan], before: int) -> None:
    where = f"{url} did not take the spans ({before} were sent before)"
    try:
        reply = client.post(url, content=encoded(spans).SerializeToString())
    except httpx.HTTPError as error:
        raise TrimodeError(f"{where}: {error}") from None
    if not reply.is_success:
        raise TrimodeError(f"{where}: HTTP {reply.status_code} {reply.text[:300]}".rstrip())
    rejected, why = refused(reply.content)
    if rejected:
        raise TrimodeError(f"{where}: {rejected} of {len(spans)} rejected: {why}")


def _headers(to: Collector) -> dict[str, str]:
    given = os.environ.get(OTEL_EXPORTER_OTLP_TRACES_HEADERS) or os.environ.get(OTEL_EXPORTER_OTLP_HEADERS) or ""
    return {**parse_env_headers(given, liberal=True), **to.headers, "content-type": "application/x-protobuf"}
