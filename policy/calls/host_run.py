"""The host's run around a call: what an adapter names by `inside_host`, and the OpenTelemetry span around it.

Knows ids and the OpenTelemetry API. Does not know frameworks or records.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context

from ..audit import HostRun
from ..in_force import InForce
from ..telemetry import names

HOST: Final = InForce("trimode_host", HostRun())


@contextmanager
def inside_host(host: HostRun) -> Generator[None]:
    """Records every call inside with these ids. An inner block replaces an outer one as a whole."""
    entered = HOST.enter(host)
    try:
        yield
    finally:
        HOST.leave(entered)


def host_around(parent: Context | None = None) -> HostRun:
    """Returns the ids in force, with those of the span of `parent` (default: the current one).

    A conversation that nobody named is that of the span, where the span has one.
    """
    host, span = HOST.get(), trace.get_current_span(parent)
    at = span.get_span_context()
    if not at.is_valid:
        return host
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    conversation = host.conversation or str(attributes.get(names.GEN_AI_CONVERSATION_ID) or "")
    ids = {"trace": trace.format_trace_id(at.trace_id), "span": trace.format_span_id(at.span_id)}
    return replace(host, conversation=conversation, **ids)
