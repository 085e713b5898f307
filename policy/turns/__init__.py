"""Turns: outputs in which a model talks and calls tools, segment by segment.

Knows what a turn may hold, plans, grammars and the engine's sections. Does not know calls, streams or recordings. Start
with `planning.py`, then `writing.py` and `segments.py`.
"""

from __future__ import annotations

from .call_reader import CallDelta, CallReader
from .planning import Segments, planned_turn, section_options
from .segments import Markers, TurnSegment, call_ids, part_of, segments_of
from .writing import call_format, marker_of, turn_matcher, writing_notes

__all__ = [
    "CallDelta", "CallReader", "Markers", "Segments", "TurnSegment", "call_format", "call_ids", "marker_of", "part_of",
    "planned_turn", "section_options", "segments_of", "turn_matcher", "writing_notes",
]  # fmt: skip
