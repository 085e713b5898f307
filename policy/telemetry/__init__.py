"""Records as OpenTelemetry spans and metrics.

Knows attribute names, the OpenTelemetry API and records. Does not know its SDK, engines or files. Start with
`names.py`, then `spans.py`.
"""

from __future__ import annotations

from . import names
from .agents import AgentSpan, ToolSpan
from .attributes import Part, parts_of
from .spans import CallSpan

__all__ = ["AgentSpan", "CallSpan", "Part", "ToolSpan", "names", "parts_of"]
