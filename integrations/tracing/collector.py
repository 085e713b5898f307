"""Collectors, named or by URL, and the encoding for them: the only module that needs the `otlp` extra.

Knows URLs, headers and OTLP/HTTP. Does not know what spans contain, or records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from trimode.engine.errors import TrimodeError
from trimode.policy.errors import PolicyError

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace.export import SpanExporter

TRACES: Final = "/v1/traces"
NAMED: Final = ("phoenix", "mlflow")
PLACES: Final = "'phoenix', 'mlflow', or a URL that starts with http:// or https://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A server that takes OTLP/HTTP protobuf at `url`. `timeout`: seconds for a request, unless the environment sets
    it."""

    url: str
    timeout: float = 10
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def collector(to: str) -> Collector:
    """Returns the collector of a name or a URL, with /v1/traces added where it has no path. Raises PolicyError for
    anything else.

    "phoenix": PHOENIX_COLLECTOR_ENDPOINT, or port 6006 here, and the project PHOENIX_PROJECT_NAME, or `trimode`.
    "mlflow": MLFLOW_TRACKING_URI, or port 5000 here, and the experiment MLFLOW_EXPERIMENT_ID, or 0.
    """
    if to == "phoenix":
        return Collector(
            url=_url(os.environ.get("PHOENIX_COLLECTOR_ENDPOINT") or "http://127.0.0.1:6006"),
            headers={"x-project-name": os.environ.get("PHOENIX_PROJECT_NAME") or "trimode"},
        )
    if to == "mlflow":
        return Collector(
            url=_url(os.environ.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000"),
            headers={"x-mlflow-experiment-id": os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"},
            timeout=30,  # slow on its first request, because the server loads most of its code then
        )
    return Collector(url=_url(to))


def _url(given: str) -> str:
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PolicyError(f"cannot send spans to {given!r}: expected {PLACES}")
    return given if parts.path.strip("/") else parts._replace(path=TRACES).geturl()


def resource() -> Resource:
    """Returns the resource of this process: by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES where set, else named
    `trimode`."""
    found = Resource.create()
    unnamed = str(found.attributes["service.name"]).startswith("unknown_service")
    return found.merge(Resource({"service.name": "trimode"})) if unnamed else found


def exporter(target: Collector) -> SpanExporter:
    """Returns the exporter for spans of running calls. Raises TrimodeError where the extra is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise missing(error) from None
    given = os.environ.get(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT) or os.environ.get(OTEL_EXPORTER_OTLP_TIMEOUT)
    timeout = None if given else target.timeout
    return OTLPSpanExporter(endpoint=target.url, headers=dict(target.headers), timeout=timeout)


def encoded(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Returns the protobuf message that OTLP sends. Raises TrimodeError where the extra is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    except ImportError as error:
        raise missing(error) from None
    return encode_spans(spans)


def refused(answer: bytes) -> tuple[int, str]:
    """Returns how many spans the collector rejected, and why. Raises TrimodeError where the answer is not OTLP."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        raise TrimodeError(f"what answered is not an OTLP collector; it said {answer[:80]!r}") from None
    return partial.rejected_spans, partial.error_message


def missing(error: ImportError) -> TrimodeError:
    return TrimodeError(f"sending spans needs the otlp extra ({error.name} is missing): pip install 'trimode[otlp]'")
