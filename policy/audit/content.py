"""Whether prompts and outputs may be recorded, and how much of them: one rule for spans and audit files.

Knows the standard OpenTelemetry switch and its values; content is off by default. Does not know spans, files or
records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Literal

from ..errors import PolicyError

SWITCH: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LIMIT: Final = 16_384
"""Characters of content in one span attribute. The audit file has no limit, because half a record proves nothing."""

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
    """Returns whether `sink` keeps content: `override` if given, else by the switch. A local file keeps content under
    every value that allows it anywhere."""
    if override is not None:
        return override
    given = os.environ.get(SWITCH, "").strip().upper() or "NO_CONTENT"
    if given not in _SINKS:
        raise PolicyError(f"{SWITCH}={os.environ[SWITCH]!r}: expected one of {', '.join(_SINKS)}")
    return sink in _SINKS[given]


def clipped(text: str, limit: int = LIMIT) -> tuple[str, str]:
    """Returns the first `limit` characters of `text`, and a description of what is missing, "" if nothing is."""
    return (
        (text, "") if len(text) <= limit else (text[:limit], f"the last {len(text) - limit} of {len(text)} characters")
    )


def newest(texts: Iterable[str], limit: int = LIMIT) -> tuple[list[str], str]:
    """Returns the last of `texts` that fit into `limit` characters together, at least a part of the last one, and a
    description of what is missing, "" if nothing is."""
    whole = list(texts)
    kept: list[str] = []
    remaining = limit
    for text in reversed(whole):
        if len(text) > remaining:
            break
        kept.insert(0, text)
        remaining -= len(text)
    if len(kept) == len(whole):
        return kept, ""
    missing = len(whole) - len(kept)
    if kept:
        return kept, f"the first {missing} of {len(whole)} messages"
    start, cut = clipped(whole[-1], limit)
    earlier = f"the first {missing - 1} of {len(whole)} messages, and " if missing > 1 else ""
    return [start], f"{earlier}{cut} of the last message"
