"""What the author of an agent writes: steps, sessions, budgets, tools.

Knows functions, docstrings and sessions. Does not know token ids, or how a mode is chosen. Start with `decorator.py`.
"""

from __future__ import annotations

from .budget import Budget, Spent
from .decorator import Step, ask, step
from .sessions import Session, session, using
from .tools import aexecute, execute, execute_tool

__all__ = [
    "Budget",
    "Session",
    "Spent",
    "Step",
    "aexecute",
    "ask",
    "execute",
    "execute_tool",
    "session",
    "step",
    "using",
]
