"""The latest outputs of a session's calls, from which `lookup_spec` may copy drafts.

Knows token ids. Does not know which call wrote them: they speed later calls up and change no token. They are never
shared between sessions, because a record of a call names the drafts that were rejected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Final

TOKENS: Final = 1024
"""Tokens that are kept, the latest: some twenty tool calls. Every record with content repeats them (docs/audit.md)."""

Runs = tuple[tuple[int, ...], ...]


class RecentOutputs:
    """Outputs in the order in which their calls ended; safe for threads."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, ...]] = deque()
        self._lock = Lock()

    def add(self, ids: Sequence[int]) -> None:
        """Adds the end of one output, and drops the oldest outputs beyond TOKENS."""
        with self._lock:
            self._runs.append(tuple(ids[-TOKENS:]))
            while sum(map(len, self._runs)) > TOKENS:
                self._runs.popleft()

    @property
    def runs(self) -> Runs:
        """The outputs, the oldest first."""
        with self._lock:
            return tuple(self._runs)
