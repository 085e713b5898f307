"""Requests as the scheduler keeps them: with the future that waits for the result, and whoever watches the output grow.

Knows requests and futures. Does not know threads, passes or modes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .request import DecodeRequest
from .result import Section
from .running import RunningRequest
from .scoring import Scoring


@dataclass(frozen=True, slots=True)
class Update:
    """The tokens committed so far, and the slots of the block in progress (None: masked).

    `sections`: parts of the output so far, each with the number of tokens before it.
    """

    tokens: tuple[int, ...]
    tentative: tuple[int | None, ...]
    sections: tuple[tuple[Section, int], ...] = ()


@dataclass(slots=True, eq=False)
class Job:
    """A submitted request. `future` may be cancelled at any time; `watch` is called from the scheduler's thread."""

    request: DecodeRequest | Scoring
    watch: Callable[[Update], None] | None = None
    future: Future[Any] = field(default_factory=Future)
    running: RunningRequest | None = None


def deliver(job: Job, result: Any = None, error: Exception | None = None) -> None:
    """Sets the future's result or error, unless it was cancelled meanwhile."""
    if not job.future.set_running_or_notify_cancel():
        return
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
