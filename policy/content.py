"""May prompts and outputs be written down? One rule for every place that records a call.

Knows the standard OpenTelemetry switch and its values. Does not know spans, files or records. Off unless asked for.
"""

from __future__ import annotations

import os
from typing import Final, Literal

from .errors import PolicyError

SWITCH: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

Sink = Literal["span", "file"]

_SINKS: Final[dict[str, frozenset[Sink]]] = {
    "NO_CONTENT": frozenset(),
    "FALSE": frozenset(),
    "SPAN_ONLY": frozenset({"span", "file"}),
    "EVENT_ONLY": frozenset({"file"}),
    "SPAN_AND_EVENT": frozenset({"span", "file"}),
    "TRUE": frozenset({"span", "file"}),
}


def captures(sink: Sink, override: bool | None = None) -> bool:
    """Whether `sink` keeps content: `override` if given, else the switch. A local file keeps it where anything does."""
    if override is not None:
        return override
    given = os.environ.get(SWITCH, "").strip().upper() or "NO_CONTENT"
    if given not in _SINKS:
        raise PolicyError(f"{SWITCH}={os.environ[SWITCH]!r}: expected one of {', '.join(_SINKS)}")
    return sink in _SINKS[given]
