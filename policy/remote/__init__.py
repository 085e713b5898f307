"""Engines elsewhere: what is asked of a server, what it answers and promises, and how calls to it fail.

Knows requests, answers and capabilities in plain values. Does not know HTTP: `integrations/remote/` fulfils the
protocol `RemoteServer`. Start with `server.py`.
"""

from __future__ import annotations

from .answer import CallText, RemoteAnswer, TextUpdate
from .capabilities import Acceptance, Capabilities, Exactness, Seeds, ToolSteps
from .dialect import Dialect, subschemas, without
from .errors import (
    AnswerGarbled,
    CallRefused,
    CircuitOpen,
    ConstraintNotHeld,
    EveryPoolFailed,
    NotReported,
    OutputCut,
    RemoteError,
    ScoresNotGiven,
    ServerBusy,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    StreamBroken,
)
from .options import METHODS, Pool, RemoteOptions, Retry, Timeouts, check_url
from .reported_stats import ReportedStats
from .request import Constraint, Form, RemoteRequest, Turning
from .scoring import Scored, Scores, TopTokens
from .server import Admitted, RemoteServer, Watch

__all__ = [
    "METHODS", "Acceptance", "Admitted", "AnswerGarbled", "CallRefused", "CallText", "Capabilities", "CircuitOpen",
    "Constraint", "ConstraintNotHeld", "Dialect", "EveryPoolFailed", "Exactness", "Form", "NotReported",
    "OutputCut", "Pool", "RemoteAnswer", "RemoteError", "RemoteOptions", "RemoteRequest", "RemoteServer",
    "ReportedStats", "Retry", "Scored", "Scores", "ScoresNotGiven", "Seeds", "ServerBusy", "ServerFailed",
    "ServerTimeout", "ServerUnreachable", "StreamBroken", "TextUpdate", "Timeouts", "ToolSteps", "TopTokens",
    "Turning", "Watch", "check_url", "subschemas", "without",
]  # fmt: skip
