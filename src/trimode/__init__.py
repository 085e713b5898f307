"""trimode: per-step decoding for agents on tri-mode language models.

The public names; everything else is reached through them. Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from trimode.integrations.tracing.live import trace
    from trimode.policy.audit import AuditFile
    from trimode.policy.budget import Budget, Spent
    from trimode.policy.engine import Engine
    from trimode.policy.errors import (
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
    from trimode.policy.resolve import Policy
    from trimode.policy.result import Result, ScoredChoice
    from trimode.policy.schema import ToolCall
    from trimode.policy.session import Session, session, using
    from trimode.policy.steps import ask, step
    from trimode.policy.stream import StreamEvent
    from trimode.policy.texts import Choice, Lark, Regex
    from trimode.policy.tools import execute, execute_tool

__version__ = "0.1.0"

_HOMES = {
    "trimode.engine.errors": (
        "CallCancelled", "CheckpointError", "KvMemoryExceeded", "ModeUnavailable", "PromptTooLong", "QueueFull",
        "RequestError", "RowsDisagree", "TrimodeError",
    ),
    "trimode.policy.audit": ("AuditFile",),
    "trimode.policy.budget": ("Budget", "Spent"),
    "trimode.integrations.tracing.live": ("trace",),
    "trimode.policy.engine": ("Engine",),
    "trimode.policy.errors": (
        "BudgetExceeded", "BudgetTooSmall", "CheckFailed", "InvalidArguments", "MalformedGrammar", "MalformedSchema",
        "OutputRefused", "PolicyError", "SchemaError", "SchemaRefused", "SchemaTooComplex", "SchemaViolation",
        "StepError", "ToolError", "UnknownTool", "UnsatisfiableSchema", "UnsupportedKeyword", "UnsupportedSyntax",
    ),
    "trimode.policy.resolve": ("Policy",),
    "trimode.policy.result": ("Result", "ScoredChoice"),
    "trimode.policy.schema": ("ToolCall",),
    "trimode.policy.session": ("Session", "session", "using"),
    "trimode.policy.steps": ("ask", "step"),
    "trimode.policy.stream": ("StreamEvent",),
    "trimode.policy.texts": ("Choice", "Lark", "Regex"),
    "trimode.policy.tools": ("execute", "execute_tool"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AuditFile", "Budget", "BudgetExceeded", "BudgetTooSmall", "CallCancelled", "CheckFailed", "CheckpointError",
    "Choice", "Engine", "InvalidArguments", "KvMemoryExceeded", "Lark", "MalformedGrammar", "MalformedSchema",
    "ModeUnavailable", "OutputRefused", "Policy", "PolicyError", "PromptTooLong", "QueueFull", "Regex",
    "RequestError", "Result", "RowsDisagree", "SchemaError", "SchemaRefused", "SchemaTooComplex", "SchemaViolation",
    "ScoredChoice", "Session", "Spent", "StepError", "StreamEvent", "ToolCall", "ToolError", "TrimodeError",
    "UnknownTool", "UnsatisfiableSchema", "UnsupportedKeyword", "UnsupportedSyntax", "ask", "execute", "execute_tool",
    "session", "step", "testing", "trace", "using",
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
