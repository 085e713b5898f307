"""Work that has to end soon, in a thread of its own: watched by the CPU time that it takes, with room on its stack.

Knows threads and clocks. CPU time, because a busy machine must not change what is admitted. The stack, because the
grammar engine recurses once a reference and once a required key, and what overflows a stack ends the process. A thread
that was quick serves the next work, too: in a new one, memory is new, and a small compilation takes twice the time.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from trimode.engine.locks import ForkSafeLock

T = TypeVar("T")
STACK: Final = 256 << 20
"""Bytes of address space; memory is taken as it is used. 30,000 required keys need less than half."""
BLOCKED_SECONDS: Final = 10.0
"""Wall-clock time after which work counts as blocked, whatever CPU time it took."""
LEFT_BEHIND: Final = 4
"""Works of one kind that were given up and may still run before others of that kind are refused."""
_POLL: Final = 0.004
_NAME: Final = "trimode-in-time"
_KEPT: Final = 2
"""Threads that wait for work."""
_QUICK: Final = 0.05
"""CPU seconds; a thread that took more may have used much of its stack, and is let go."""
_starting: Final = ForkSafeLock()
_idle: Final = list[SimpleQueue["Work"]]()
_left: Final = list["Work"]()
_collected: Final = dict[int, float]()
"""CPU seconds that a thread spent in whole collections, whose time is that of everything in memory."""
_collecting: Final = dict[int, float]()
"""What a thread's CPU clock said when the collection began that it is in."""


@dataclass
class Work:
    """One call on its way. `clock`: its thread's CPU clock, and what that said when the call began."""

    call: Callable[[], Any]
    kind: str
    over: threading.Event = field(default_factory=threading.Event)
    done: list[Any] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    clock: tuple[int, float] | None = None
    thread: int = 0

    def run(self) -> None:
        try:
            own, self.thread = _own_clock(), threading.get_ident()
            _collected.pop(self.thread, None)
            self.clock = own, time.clock_gettime(own) if own else 0.0
            self.done.append(self.call())
        except BaseException as error:  # a panic of the grammar engine is no Exception
            self.failed.append(error)

    def spent(self, wall: float) -> float:
        """CPU seconds so far, without collections; `wall` on platforms that have no clocks of threads."""
        if self.clock is None:  # not begun
            return 0.0
        if not self.clock[0]:
            return wall
        try:
            now = time.clock_gettime(self.clock[0])
        except OSError:  # the thread has just ended
            return 0.0
        return _collecting.get(self.thread, now) - self.clock[1] - _collected.get(self.thread, 0.0)


class OutOfTime(Exception):
    """The work took longer than it may; the message says so in words."""


class Overloaded(OutOfTime):
    """The work was not begun: too many of its kind that were given up still run, or no thread can be started."""


def left_behind() -> list[Work]:
    """Works that were given up and go on."""
    with _starting:
        _left[:] = [work for work in _left if not work.over.is_set()]
        return list(_left)


def clock() -> float:
    """The CPU clock of the calling thread, which stands still in its whole collections."""
    return time.thread_time() - _collected.get(threading.get_ident(), 0.0)


def check(until: float) -> None:
    """Raises OutOfTime where `clock` is beyond `until`."""
    if clock() > until:
        raise OutOfTime("no complete text was found")


def in_time(call: Callable[[], T], seconds: float, kind: str = "compile") -> T:
    """What `call` returns or raises. Raises OutOfTime once it took more CPU `seconds`.

    A thread cannot be stopped: one left behind goes on until its work ends, and its result is dropped. So that they do
    not pile up, Crowded is raised while LEFT_BEHIND of the same `kind` still run. Works that begin at the same time may
    exceed that by their own number.
    """
    if (still := sum(work.kind == kind for work in left_behind())) >= LEFT_BEHIND:
        raise Overloaded(f"{still} others that took too long are still at work; try again in some seconds")
    work, began = Work(call, kind), time.perf_counter()
    try:
        _begin(work)
    except RuntimeError as error:  # no room for its stack, or too many threads
        raise Overloaded(f"{error}: there is no room for it on this machine now; try again in some seconds") from None
    while not work.over.wait(_POLL):
        wall = time.perf_counter() - began
        if wall > BLOCKED_SECONDS or (wall > seconds and work.spent(wall) > seconds and not work.over.is_set()):
            with _starting:
                _left.append(work)
            raise OutOfTime(f"it took more than {seconds} s")
    if work.failed:
        raise work.failed[0]
    found: T = work.done[0]
    return found


def _begin(work: Work) -> None:
    with _starting:
        if _idle:
            _idle.pop().put(work)
            return
        jobs = SimpleQueue[Work]()
        jobs.put(work)
        usual = threading.stack_size(STACK)
        try:
            threading.Thread(target=_serve, args=(jobs,), name=_NAME, daemon=True).start()
        finally:
            threading.stack_size(usual)


def _serve(jobs: SimpleQueue[Work]) -> None:
    """A thread's life: works, as long as they are quick and no others wait already."""
    goes_on = True
    while goes_on:
        work = jobs.get()
        work.run()
        with _starting:
            goes_on = work.spent(time.monotonic()) < _QUICK and len(_idle) < _KEPT
            if goes_on:
                _idle.append(jobs)
        work.over.set()
        del work


def _own_clock() -> int:
    """The calling thread's CPU clock, as others may read it; 0 on platforms that have none."""
    found: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
    return 0 if found is None else found(threading.get_ident())


def _watch_collection(phase: str, info: dict[str, int]) -> None:
    """Called by the collector in the thread that it interrupts."""
    if info["generation"] < 2 or not threading.current_thread().name.startswith(_NAME):
        return
    thread = threading.get_ident()
    if phase == "start":
        _collecting[thread] = time.thread_time()
    elif thread in _collecting:
        # In this order: who watches may look in between, and must not find the collection's time as the work's.
        _collected[thread] = _collected.get(thread, 0.0) + time.thread_time() - _collecting[thread]
        del _collecting[thread]


def _begin_anew() -> None:
    """In a forked process none of the threads is there: neither those that wait nor those that were given up."""
    _idle.clear()
    _left.clear()


os.register_at_fork(after_in_child=_begin_anew)
gc.callbacks.append(_watch_collection)
