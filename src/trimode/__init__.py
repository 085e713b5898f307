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
    from trimode.integrations.tracing.live import trace
    from trimode.policy.engine import Engine
    from trimode.policy.errors import (
        BudgetTooSmall,
        MalformedSchema,
        PolicyError,
        SchemaError,
        SchemaRefused,
        SchemaTooComplex,
        SchemaViolation,
        StepError,
        UnsatisfiableSchema,
        UnsupportedKeyword,
    )
    from trimode.policy.resolve import Policy
    from trimode.policy.result import Choice, Result
    from trimode.policy.schema import ToolCall
    from trimode.policy.session import Session, session, using
    from trimode.policy.steps import ask, step
    from trimode.policy.stream import StreamEvent

__version__ = "0.1.0"

_HOMES = {
    "trimode.engine.errors": (
        "CallCancelled", "CheckpointError", "KvMemoryExceeded", "ModeUnavailable", "PromptTooLong", "QueueFull",
        "RequestError", "TrimodeError",
    ),
    "trimode.integrations.tracing.live": ("trace",),
    "trimode.policy.engine": ("Engine",),
    "trimode.policy.errors": (
        "BudgetTooSmall", "MalformedSchema", "PolicyError", "SchemaError", "SchemaRefused", "SchemaTooComplex",
        "SchemaViolation", "StepError", "UnsatisfiableSchema", "UnsupportedKeyword",
    ),
    "trimode.policy.resolve": ("Policy",),
    "trimode.policy.result": ("Choice", "Result"),
    "trimode.policy.schema": ("ToolCall",),
    "trimode.policy.session": ("Session", "session", "using"),
    "trimode.policy.steps": ("ask", "step"),
    "trimode.policy.stream": ("StreamEvent",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetTooSmall", "CallCancelled", "CheckpointError", "Choice", "Engine", "KvMemoryExceeded", "MalformedSchema",
    "ModeUnavailable", "Policy", "PolicyError", "PromptTooLong", "QueueFull", "RequestError", "Result", "SchemaError",
    "SchemaRefused", "SchemaTooComplex", "SchemaViolation", "Session", "StepError", "StreamEvent", "ToolCall",
    "TrimodeError", "UnsatisfiableSchema", "UnsupportedKeyword", "ask", "session", "step", "trace", "using",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'trimode' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
