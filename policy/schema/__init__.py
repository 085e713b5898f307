"""Targets of constrained output: types, JSON Schemas, tools in every published shape, and plain-text formats.

Knows pydantic, the shapes of tools and envelopes, regular expressions. Does not know tokens, grammar engines, torch, or
what JSON Schema keywords mean (`json_schema` does). Start with `targets.py`.
"""

from __future__ import annotations

from .python_types import function_of, reasons
from .targets import Schema, Target, ToolCall, called, described, held_to, schema_of, tool_schema
from .texts import Choice, Lark, Regex, TextTarget
from .tool_shapes import Tool, ToolShape, is_function, names_of, runnable, shapes_of
from .turns import (
    BARE,
    MARKED,
    SEGMENT_KINDS,
    CallFormat,
    IdentifiedCall,
    SegmentKind,
    ToolChoice,
    Turn,
    TurnTarget,
    turn_of,
    turn_target,
)

__all__ = [
    "BARE", "MARKED", "SEGMENT_KINDS", "CallFormat", "Choice", "IdentifiedCall", "Lark", "Regex", "Schema",
    "SegmentKind", "Target", "TextTarget", "Tool", "ToolCall", "ToolChoice", "ToolShape", "Turn", "TurnTarget",
    "called", "described", "function_of", "held_to", "is_function", "names_of", "reasons", "runnable", "schema_of",
    "shapes_of", "tool_schema", "turn_of", "turn_target",
]  # fmt: skip
