"""`trimode.trace`: sends every call of the process to a collector, the console or a file.

Knows the process's TracerProvider and adds processors to it; changes nothing global before `trace` is called. Does not
know calls.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from trimode.engine.locks import ForkSafeLock
from trimode.policy.audit import add_audit_file
from trimode.policy.errors import PolicyError
from trimode.policy.telemetry import names

from .collector import NAMED, PLACES, collector, exporter, resource

_added: Final[WeakKeyDictionary[TracerProvider, set[str]]] = WeakKeyDictionary()
_lock: Final = ForkSafeLock()


def trace(to: str) -> None:
    """Sends every later call of this process to `to`. May be called for several destinations; the same one twice counts
    once.

    - "phoenix", "mlflow": the server on this machine, or at PHOENIX_COLLECTOR_ENDPOINT or MLFLOW_TRACKING_URI (with
      MLFLOW_EXPERIMENT_ID); spans over OTLP/HTTP, which needs the extra `otlp`.
    - "http://HOST:PORT": any other collector; /v1/traces is added where the URL has no path. Headers, timeouts and
      queue come from the standard OTEL_EXPORTER_OTLP_* and OTEL_BSP_* variables.
    - "console": one line for each span on stderr.
    - "file:PATH": the audit file, as in `session(trace=...)`, of calls inside and outside sessions; no spans. It is
      what `trimode audit` reads, and `trimode audit push` can send it to a collector later.

    An installed TracerProvider gets one more processor; where there is none, one is installed. Prompts, outputs and
    drafts are included only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT allows it. Raises PolicyError for
    another `to` and for a provider that takes no processors, TrimodeError where the extra is missing, AuditFileRefused
    where the file is no audit file or cannot be made.
    """
    scheme, _, path = to.partition(":")
    if scheme == "file":
        _open(path)
        return
    if not (to == "console" or to in NAMED or to.startswith(("http://", "https://"))):
        raise PolicyError(f"trace(to={to!r}): expected {PLACES}, 'console' or 'file:PATH'")
    destination = to if to == "console" else repr(collector(to))
    with _lock:
        provider = _provider()
        destinations = _added.setdefault(provider, set())
        if destination not in destinations:
            provider.add_span_processor(_processor(to))
            destinations.add(destination)


def _open(path: str) -> None:
    if not path:
        raise PolicyError("trace(to='file:'): expected the path of the audit file after the colon")
    add_audit_file(Path(path))


def _processor(to: str) -> SpanProcessor:
    if to == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=line))
    return BatchSpanProcessor(exporter(collector(to)))


def _provider() -> TracerProvider:
    """Returns the installed provider, or installs one where there is none."""
    found = api.get_tracer_provider()
    if isinstance(found, api.ProxyTracerProvider):
        provider = TracerProvider(resource=resource())
        api.set_tracer_provider(provider)
        return provider
    if not isinstance(found, TracerProvider):
        kind = f"{type(found).__module__}.{type(found).__qualname__}"
        raise PolicyError(f"the installed tracer provider {kind} takes no span processors; add the exporter there")
    return found


def line(span: ReadableSpan) -> str:
    """Returns a span as one line: name, duration, tokens, passes, accepted drafts, reason."""
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    attributes = span.attributes or {}
    shown = {"tokens": names.OUTPUT_TOKENS, "passes": names.FORWARD_PASSES, "drafts": names.DRAFT_TAPE,
             "reason": names.DECODE_REASON}  # fmt: skip
    parts = [f"{label} {attributes[key]!s}" for label, key in shown.items() if key in attributes]
    return "  ".join((f"{span.name}  {seconds:.3f} s", *parts)) + "\n"
