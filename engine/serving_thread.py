"""The thread that serves an engine's requests: it starts with the first of them and ends when none comes for a while.

Knows threads, forks and the end of the process. Does not know requests. The thread refers to its owner only while there
is work, so that an engine that nobody refers to is freed, and its thread ends.
"""

from __future__ import annotations

import atexit
import os
from threading import Condition, Thread, current_thread
from typing import Final, Protocol
from weakref import WeakSet, finalize, ref

import torch

IDLE_SECONDS = 5.0
"""How long the thread waits for work before it ends; the next request starts another."""


class Owner(Protocol):
    """Whom a thread serves."""

    @property
    def busy(self) -> bool:
        """Whether there is work."""
        ...

    @property
    def closed(self) -> bool:
        """Whether there will be no more."""
        ...

    def serve(self) -> None:
        """Works until it is no longer busy."""

    def fail(self, error: BaseException) -> None:
        """Ends all work, because `serve` raised what it should never raise."""

    def close(self) -> None:
        """Ends all work, because the process ends."""

    def begin_anew(self) -> None:
        """Begins without work and with another `ServingThread`, in a forked process."""


class ServingThread:
    """`changed`: the lock of the owner's work, notified of more work and of the end."""

    changed: Condition

    def __init__(self, owner: Owner) -> None:
        self.changed = Condition()
        self._owner = ref(owner)
        self._thread: Thread | None = None
        self._wake = finalize(owner, _notify, self.changed)
        self._wake.atexit = False
        _OWNERS.add(owner)

    def work_came(self) -> None:
        """Starts the thread or wakes it. The lock is held."""
        if self._thread is None:
            self._thread = Thread(target=self._live, name="trimode-scheduler", daemon=True)
            self._thread.start()
        self.changed.notify()

    def join(self) -> None:
        """Waits for the thread, once its owner is closed."""
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join()

    def forget(self) -> None:
        """In a forked process: nobody gives the lock back that may be held, so that nothing may ask for it."""
        self._wake.detach()

    @torch.inference_mode()
    def _live(self) -> None:
        while (owner := self._owner()) is not None:
            try:
                owner.serve()
            except BaseException as error:
                owner.fail(error)
            with self.changed:
                if owner.busy:
                    continue
                ends = owner.closed
                del owner  # perhaps the last reference
                if ends or (self._owner() is not None and not self.changed.wait(IDLE_SECONDS) and self._idle()):
                    self._thread = None  # under the lock: who brings work now starts another
                    return

    def _idle(self) -> bool:
        owner = self._owner()
        return owner is not None and not owner.busy


def _notify(changed: Condition) -> None:
    with changed:
        changed.notify_all()


_OWNERS: Final[WeakSet[Owner]] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: a thread that it stops inside a tensor function takes the process down with it."""
    for owner in list(_OWNERS):
        owner.close()


def _begin_all_anew() -> None:
    for owner in list(_OWNERS):
        owner.begin_anew()


os.register_at_fork(after_in_child=_begin_all_anew)
