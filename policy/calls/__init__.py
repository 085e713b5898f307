"""The life of one call: from the caller's arguments to a recorded `Result`.

Knows the token engine, the rooms below, and a session's scope. Does not know decorators, budgets or tools.
Start with `call.py`, then `engine.py`.
"""

from __future__ import annotations

from .call import Call, check_tool_call, tools_of
from .choice import candidates_of, decoded
from .engine import Engine
from .fake_engine import FakeEngine, ScriptError, in_turn
from .in_force import InForce
from .naming import NAMING, Naming, current_naming
from .recording import Recording
from .result import Result, ScoredChoice, session_html
from .retries import aattempted, attempted
from .scope import SCOPE, USING, Scope, current_scope, overrides
from .segments import TurnSegment
from .stream import CallDelta, StreamEvent
from .turns import planned_turn, section_options, turn_matcher

__all__ = [
    "NAMING", "SCOPE", "USING", "Call", "CallDelta", "Engine", "FakeEngine", "InForce", "Naming", "Recording", "Result",
    "Scope", "ScoredChoice", "ScriptError", "StreamEvent", "TurnSegment", "aattempted", "attempted", "candidates_of",
    "check_tool_call", "current_naming", "current_scope", "decoded", "in_turn", "overrides", "planned_turn",
    "section_options", "session_html", "tools_of", "turn_matcher",
]  # fmt: skip
