"""Locks that a forked process finds open, whoever held them in its parent. Knows threads and forks, nothing else."""

from __future__ import annotations

import os
from threading import Lock
from types import TracebackType
from typing import Final
from weakref import WeakSet


class ForkSafeLock:
    """A lock for `with`. In a forked process it is a new one: the thread that may have held the old one is not there.

    What it guards may have been caught half changed; it has to be of a kind that bears this, such as counts.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        _ALL.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    def renew(self) -> None:
        self._lock = Lock()


_ALL: Final[WeakSet[ForkSafeLock]] = WeakSet()


def _renew_all() -> None:
    for lock in list(_ALL):
        lock.renew()


os.register_at_fork(after_in_child=_renew_all)
