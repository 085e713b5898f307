"""The life of one call: from the caller's arguments to a recorded `Result`.

Knows the token engine, the rooms below, and a session's scope. Does not know decorators, budgets or tools.
Start with `call.py`, then `engine.py`.
"""

from __future__ import annotations

from .arguments import CallOptions, call_of, check_tool_call, tools_of
from .call import Call
from .choice import candidates_of, decoded
from .engine import Engine
from .fake_engine import FakeEngine, ScriptError, in_turn
from .recent_outputs import RecentOutputs
from .recording import Recording
from .remote.again import request_from
from .remote.engine import RemoteEngine
from .result import Result, ScoredChoice, session_html
from .retries import aattempted, attempted
from .scope import HOST, SCOPE, USING, Scope, current_scope, host_around, inside_host, overrides
from .stream import StreamEvent

__all__ = [
    "HOST", "SCOPE", "USING", "Call", "CallOptions", "Engine", "FakeEngine", "RecentOutputs",
    "Recording", "RemoteEngine", "Result", "Scope", "ScoredChoice", "ScriptError", "StreamEvent", "aattempted",
    "attempted", "call_of", "candidates_of", "check_tool_call", "current_scope", "decoded", "host_around", "in_turn",
    "inside_host", "overrides", "request_from", "session_html", "tools_of",
]  # fmt: skip
