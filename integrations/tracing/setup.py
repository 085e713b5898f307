"""`trimode.trace`: one line that sends every call somewhere.

Knows the process's TracerProvider and adds to it; nothing global is touched before the first call.
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
    """Sends every later call of this process to `to`; several places add up, and the same one twice counts once.

    - "phoenix", "mlflow": the server on this machine, or where PHOENIX_COLLECTOR_ENDPOINT or MLFLOW_TRACKING_URI (with
      MLFLOW_EXPERIMENT_ID) say; spans over OTLP/HTTP, which needs the extra `otlp`.
    - "http://HOST:PORT": any other collector; /v1/traces is added where the URL has no path. Headers, timeouts and
      queue come from the standard OTEL_EXPORTER_OTLP_* and OTEL_BSP_* variables.
    - "console": a line a span on stderr.
    - "file:PATH": the audit file, as in `session(trace=...)`, of calls inside and outside sessions; no spans. It is
      what `trimode audit` reads, and `trimode audit push` can send it to a collector later.

    A TracerProvider that is installed already keeps all it has and gets one more processor; without one, one is
    installed. Prompts, outputs and drafts are included only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
    says so. Raises PolicyError for another `to` and for a provider that takes no processors, TrimodeError where the
    extra is missing, OSError where the file cannot be made.
    """
    scheme, _, path = to.partition(":")
    if scheme == "file":
        _open(path)
        return
    if not (to == "console" or to in NAMED or to.startswith(("http://", "https://"))):
        raise PolicyError(f"trace(to={to!r}): expected {PLACES}, 'console' or 'file:PATH'")
    place = to if to == "console" else repr(collector(to))
    with _lock:
        provider = _provider()
        places = _added.setdefault(provider, set())
        if place not in places:
            provider.add_span_processor(_processor(to))
            places.add(place)


def _open(path: str) -> None:
    if not path:
        raise PolicyError("trace(to='file:'): expected the path of the audit file behind it")
    add_audit_file(Path(path))


def _processor(to: str) -> SpanProcessor:
    if to == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=line))
    return BatchSpanProcessor(exporter(collector(to)))


def _provider() -> TracerProvider:
    """The installed provider, or a new one where there is none."""
    found = api.get_tracer_provider()
    if isinstance(found, api.ProxyTracerProvider):
        made = TracerProvider(resource=resource())
        api.set_tracer_provider(made)
        return made
    if not isinstance(found, TracerProvider):
        kind = f"{type(found).__module__}.{type(found).__qualname__}"
        raise PolicyError(f"the installed tracer provider {kind} takes no span processors; add the exporter there")
    return found


def line(span: ReadableSpan) -> str:
    """Name, duration, and what was drafted and kept."""
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    said = span.attributes or {}
    shown = {"tokens": names.OUTPUT_TOKENS, "passes": names.FORWARD_PASSES, "drafts": names.DRAFT_TAPE,
             "reason": names.DECODE_REASON}  # fmt: skip
    words = [f"{word} {said[key]!s}" for word, key in shown.items() if key in said]
    return "  ".join((f"{span.name}  {seconds:.3f} s", *words)) + "\n"
