"""trimode: per-step decoding for agents on tri-mode language models.

The public names; everything else is reached through them. Importing this package does not import torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimode.engine.connectors import provide

if TYPE_CHECKING:
    from trimode import testing
    from trimode.engine.errors import (
        CallCancelled,
        CheckpointError,
        KvMemoryExceeded,
        ModeUnavailable,
        PromptTooLong,
        QueueFull,
        RequestError,
        RowsDisagree,
        TrimodeError,
    )
    from trimode.integrations.mcp.tools import mcp_tools
    from trimode.integrations.tracing.setup import trace
    from trimode.policy.audit import AuditFile
    from trimode.policy.calls import Engine, Result, ScoredChoice, StreamEvent
    from trimode.policy.decisions import Calibration, Decision, DecisionAnswer, DecisionQuestion
    from trimode.policy.errors import (
        AuditError,
        AuditFileRefused,
        AuditWriteFailed,
        BudgetExceeded,
        BudgetTooSmall,
        CheckFailed,
        InvalidArguments,
        MalformedGrammar,
        MalformedSchema,
        OutputRefused,
        PolicyError,
        SchemaError,
        SchemaRefused,
        SchemaTooComplex,
        SchemaViolation,
        StepError,
        ToolError,
        UnknownTool,
        UnsatisfiableSchema,
        UnsupportedKeyword,
        UnsupportedSyntax,
    )
    from trimode.policy.remote import Pool, RemoteError, Retry, Timeouts
    from trimode.policy.schema import Choice, IdentifiedCall, Lark, Regex, ToolCall, Turn
    from trimode.policy.selection import Policy
    from trimode.policy.steps import (
        Budget,
        Session,
        Spent,
        aexecute,
        ask,
        execute,
        execute_tool,
        session,
        step,
        using,
    )
    from trimode.policy.turns import CallDelta, TurnSegment

__version__ = "0.1.0"

# Silent unless the application sets it up: INFO says what was loaded, DEBUG why each mode was chosen.
logging.getLogger("trimode").addHandler(logging.NullHandler())
# What `Engine.remote` calls is in a layer above the engine; only this module may know both.
provide("remote", "trimode.integrations.remote.connect", "connect")

_HOMES = {
    "trimode.engine.errors": (
        "CallCancelled", "CheckpointError", "KvMemoryExceeded", "ModeUnavailable", "PromptTooLong", "QueueFull",
        "RequestError", "RowsDisagree", "TrimodeError",
    ),
    "trimode.integrations.mcp.tools": ("mcp_tools",),
    "trimode.integrations.tracing.setup": ("trace",),
    "trimode.policy.audit": ("AuditFile",),
    "trimode.policy.calls": ("Engine", "Result", "ScoredChoice", "StreamEvent"),
    "trimode.policy.decisions": ("Calibration", "Decision", "DecisionAnswer", "DecisionQuestion"),
    "trimode.policy.errors": (
        "AuditError", "AuditFileRefused", "AuditWriteFailed", "BudgetExceeded", "BudgetTooSmall", "CheckFailed",
        "InvalidArguments", "MalformedGrammar", "MalformedSchema",
        "OutputRefused", "PolicyError", "SchemaError", "SchemaRefused", "SchemaTooComplex", "SchemaViolation",
        "StepError", "ToolError", "UnknownTool", "UnsatisfiableSchema", "UnsupportedKeyword", "UnsupportedSyntax",
    ),
    "trimode.policy.remote": ("Pool", "RemoteError", "Retry", "Timeouts"),
    "trimode.policy.schema": ("Choice", "IdentifiedCall", "Lark", "Regex", "ToolCall", "Turn"),
    "trimode.policy.selection": ("Policy",),
    "trimode.policy.steps": (
        "Budget", "Session", "Spent", "aexecute", "ask", "execute", "execute_tool", "session", "step", "using",
    ),
    "trimode.policy.turns": ("CallDelta", "TurnSegment"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AuditError", "AuditFile", "AuditFileRefused", "AuditWriteFailed", "Budget", "BudgetExceeded", "BudgetTooSmall",
    "Calibration", "CallCancelled", "CallDelta", "CheckFailed", "CheckpointError", "Choice", "Decision",
    "DecisionAnswer", "DecisionQuestion", "Engine", "IdentifiedCall", "InvalidArguments", "KvMemoryExceeded", "Lark",
    "MalformedGrammar", "MalformedSchema", "ModeUnavailable", "OutputRefused", "Policy", "PolicyError", "Pool",
    "PromptTooLong", "QueueFull", "Regex", "RemoteError", "RequestError", "Result", "Retry", "RowsDisagree",
    "SchemaError", "SchemaRefused", "SchemaTooComplex", "SchemaViolation", "ScoredChoice", "Session", "Spent",
    "StepError", "StreamEvent", "Timeouts", "ToolCall", "ToolError", "TrimodeError", "Turn", "TurnSegment",
    "UnknownTool", "UnsatisfiableSchema", "UnsupportedKeyword", "UnsupportedSyntax", "aexecute", "ask", "execute",
    "execute_tool", "mcp_tools", "session", "step", "testing", "trace", "using",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "testing":  # imports torch, so only when asked for
        return import_module("trimode.testing")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'trimode' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """The public names, so that completion lists them before anything is imported."""
    return [*__all__, "__version__"]
