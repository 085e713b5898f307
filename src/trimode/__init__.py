"""trimode: per-step decoding for agents on tri-mode language models.

The public names; everything else is reached through them. Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimode.engine.errors import (
        CallCancelled,
        CheckpointError,
        KvMemoryExceeded,
        ModeUnavailable,
        PromptTooLong,
        QueueFull,
        RequestError,
        TrimodeError,
    )
    from trimode.policy.engine import Engine
    from trimode.policy.errors import (
        BudgetTooSmall,
        MalformedGrammar,
        MalformedSchema,
        PolicyError,
        SchemaError,
        SchemaRefused,
        SchemaTooComplex,
        SchemaViolation,
        StepError,
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

__version__ = "0.1.0"

_HOMES = {
    "trimode.engine.errors": (
        "CallCancelled", "CheckpointError", "KvMemoryExceeded", "ModeUnavailable", "PromptTooLong", "QueueFull",
        "RequestError", "TrimodeError",
    ),
    "trimode.policy.engine": ("Engine",),
    "trimode.policy.errors": (
        "BudgetTooSmall", "MalformedGrammar", "MalformedSchema", "PolicyError", "SchemaError", "SchemaRefused",
        "SchemaTooComplex", "SchemaViolation", "StepError", "UnsatisfiableSchema", "UnsupportedKeyword",
        "UnsupportedSyntax",
    ),
    "trimode.policy.resolve": ("Policy",),
    "trimode.policy.result": ("Result", "ScoredChoice"),
    "trimode.policy.schema": ("ToolCall",),
    "trimode.policy.session": ("Session", "session", "using"),
    "trimode.policy.steps": ("ask", "step"),
    "trimode.policy.stream": ("StreamEvent",),
    "trimode.policy.texts": ("Choice", "Lark", "Regex"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetTooSmall", "CallCancelled", "CheckpointError", "Choice", "Engine", "KvMemoryExceeded", "Lark",
    "MalformedGrammar", "MalformedSchema", "ModeUnavailable", "Policy", "PolicyError", "PromptTooLong", "QueueFull",
    "Regex", "RequestError", "Result", "SchemaError", "SchemaRefused", "SchemaTooComplex", "SchemaViolation",
    "ScoredChoice", "Session", "StepError", "StreamEvent", "ToolCall", "TrimodeError", "UnsatisfiableSchema",
    "UnsupportedKeyword", "UnsupportedSyntax", "ask", "session", "step", "using",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'trimode' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
