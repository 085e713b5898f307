"""What a server answered: text, calls, and the counts that it gave; and the pieces of it as they come.

Knows plain values; None stands for what the server did not say. Does not know HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode.engine.jobs import Update
from trimode.engine.result import FinishReason, Mode

from ..audit import AttemptMade, Reported
from .scoring import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class CallText:
    """One tool call as the server wrote it: `arguments` is JSON text that nothing has validated yet."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class TextUpdate(Update):
    """The answer so far: its text, the thinking before it, and its calls. The fields of `Update` stay empty."""

    text: str = ""
    thinking: str = ""
    calls: tuple[CallText, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAnswer:
    """A finished answer. `pool`, `kind`, `mode`, `method`: the endpoint that gave it; `version`: its server's.

    `cut`: ended by us at `max_seconds`. `held`: whether the server is known to have kept the constraint, by its probe;
    None without one. `seconds`: from the first attempt to the end; `first_seconds`: to the first piece. `model`,
    `response_id`, `fingerprint`: as the server says. `body`: the request as it was sent. `scores`: of a request that
    scores; `text` is then the likeliest options, one a line.
    """

    text: str
    finish_reason: FinishReason
    pool: str
    kind: str
    mode: Mode
    model: str
    seconds: float
    method: str = ""
    version: str | None = None
    thinking: str | None = None
    calls: tuple[CallText, ...] = ()
    reported: Reported = field(default_factory=Reported)
    first_seconds: float | None = None
    cut: bool = False
    held: bool | None = None
    exactness: str = "not promised"
    seeds: str = "none"
    response_id: str | None = None
    fingerprint: str | None = None
    attempts: tuple[AttemptMade, ...] = ()
    notes: tuple[str, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores | None = None
