"""Records as OpenTelemetry spans and metrics, and rounds as tables and tapes for people.

Knows attribute names, the OpenTelemetry API and records. Does not know its SDK, engines or files. Start with
`names.py`, then `spans.py`.
"""

from __future__ import annotations

from . import names
from .agents import AgentSpan, ToolSpan
from .attributes import Part, parts_of
from .spans import CallSpan
from .token_tape import Spelling, legend, panel, tape

__all__ = ["AgentSpan", "CallSpan", "Part", "Spelling", "ToolSpan", "legend", "names", "panel", "parts_of", "tape"]
