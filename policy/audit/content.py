"""May prompts and outputs be written down, and how much of them? One rule for every place that records a call.

Knows the standard OpenTelemetry switch and its values. Does not know spans, files or records. Off unless asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Literal

from ..errors import PolicyError

SWITCH: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LIMIT: Final = 16_384
"""Characters of content in one span attribute. The audit file has no limit: half a record proves nothing."""

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


def clipped(text: str, room: int = LIMIT) -> tuple[str, str]:
    """The start of `text`, and what is missing of it, in words; empty where nothing is."""
    return (text, "") if len(text) <= room else (text[:room], f"the last {len(text) - room} of {len(text)} characters")


def newest(texts: Iterable[str], room: int = LIMIT) -> tuple[list[str], str]:
    """The last of `texts` that fit into `room` together, and what is missing, in words; at least part of the last."""
    given = list(texts)
    kept: list[str] = []
    for text in reversed(given):
        if len(text) > room:
            break
        kept.insert(0, text)
        room -= len(text)
    if len(kept) == len(given):
        return kept, ""
    missing = len(given) - len(kept)
    if kept:
        return kept, f"the first {missing} of {len(given)} messages"
    start, words = clipped(given[-1], room)
    earlier = f"the first {missing - 1} of {len(given)} messages, and " if missing > 1 else ""
    return [start], f"{earlier}{words} of the last message"
