"""Watchdog: runs work in a thread with a large stack and gives it up after a limit of CPU time.

Knows threads and clocks. Does not know what the work is. CPU time, because load on the machine must not change which
schemas are accepted. A large stack, because the grammar engine recurses for each reference and each required key, and a
stack overflow kills the process. A thread whose work was quick is reused, because a small compilation takes twice as
long in a new thread, with new memory.
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
"""Bytes of stack (address space; memory is committed as it is used). 30,000 required keys need less than half."""
BLOCKED_SECONDS: Final = 10.0
"""Wall-clock seconds after which work counts as blocked, regardless of its CPU time."""
MAX_ABANDONED: Final = 4
"""Number of abandoned, still running works of one kind from which new work of that kind is refused."""
_POLL: Final = 0.004
"""Wall-clock seconds between two looks at the work's clock."""
_NAME: Final = "trimode-in-time"
_MAX_IDLE: Final = 2
"""Maximum number of idle threads."""
_REUSE_SECONDS: Final = 0.05
"""CPU seconds of a work from which its thread is not reused, because it may have committed much of its stack."""
_starting: Final = ForkSafeLock()
_idle: Final = list[SimpleQueue["Work"]]()
_abandoned: Final = list["Work"]()
_collected: Final = dict[int, float]()
"""CPU seconds of full garbage collections by thread id; not counted, because they depend on all objects in memory."""
_collecting: Final = dict[int, float]()
"""CPU clock in seconds at the start of a running full garbage collection, by thread id."""


@dataclass
class Work:
    """One call in a watched thread. `clock`: id of its thread's CPU clock, and the clock's value at the beginning."""

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
        """Returns CPU seconds so far, without full collections; `wall` on platforms without clocks of other threads."""
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
    """The work exceeded its time limit; the message tells why, without the name of the work."""


class Overloaded(OutOfTime):
    """The work was not started, because too much abandoned work of its kind still runs or no thread can be started."""


def abandoned_work() -> list[Work]:
    """Returns the works that were given up and still run."""
    with _starting:
        _abandoned[:] = [work for work in _abandoned if not work.over.is_set()]
        return list(_abandoned)


def clock() -> float:
    """Returns the CPU seconds of the calling thread, without full garbage collections."""
    return time.thread_time() - _collected.get(threading.get_ident(), 0.0)


def check(until: float) -> None:
    """Raises OutOfTime if `clock()` is past `until`."""
    if clock() > until:
        raise OutOfTime("no complete text was found")


def in_time(call: Callable[[], T], seconds: float, kind: str = "compile") -> T:
    """Returns or raises what `call` does. Raises OutOfTime once it took more than `seconds` of CPU time.

    A thread cannot be stopped: abandoned work runs to its end, and its result is dropped. Overloaded is raised while
    MAX_ABANDONED works of the same `kind` still run, so that they do not accumulate. Works that begin at the same time
    may exceed the maximum by their own number.
    """
    if (still := sum(work.kind == kind for work in abandoned_work())) >= MAX_ABANDONED:
        raise Overloaded(f"{still} others that took too long are still at work; try again in some seconds")
    work, began = Work(call, kind), time.perf_counter()
    try:
        _begin(work)
    except RuntimeError as error:  # no memory for its stack, or too many threads
        raise Overloaded(f"{error}: there is no room for it on this machine now; try again in some seconds") from None
    while not work.over.wait(_POLL):
        wall = time.perf_counter() - began
        if wall > BLOCKED_SECONDS or (wall > seconds and work.spent(wall) > seconds and not work.over.is_set()):
            with _starting:
                _abandoned.append(work)
            raise OutOfTime(f"it took more than {seconds} s")
    if work.failed:
        raise work.failed[0]
    found: T = work.done[0]
    return found


def _begin(work: Work) -> None:
    """Gives `work` to an idle thread or starts one. Raises RuntimeError if no thread can be started."""
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
    """Runs works in a thread until one was slow or enough other threads are idle."""
    goes_on = True
    while goes_on:
        work = jobs.get()
        work.run()
        with _starting:
            goes_on = work.spent(time.monotonic()) < _REUSE_SECONDS and len(_idle) < _MAX_IDLE
            if goes_on:
                _idle.append(jobs)
        work.over.set()
        del work


def _own_clock() -> int:
    """Returns the id of the calling thread's CPU clock, which other threads can read; 0 on platforms without one."""
    found: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
    return 0 if found is None else found(threading.get_ident())


def _watch_collection(phase: str, info: dict[str, int]) -> None:
    """Measures full collections; called by the garbage collector in the thread that it interrupts."""
    if info["generation"] < 2 or not threading.current_thread().name.startswith(_NAME):
        return
    thread = threading.get_ident()
    if phase == "start":
        _collecting[thread] = time.thread_time()
    elif thread in _collecting:
        # In this order, because the watching thread may read in between and must not count the collection as work.
        _collected[thread] = _collected.get(thread, 0.0) + time.thread_time() - _collecting[thread]
        del _collecting[thread]


def _reset_after_fork() -> None:
    """Forgets all threads, because a forked process has none of them."""
    _idle.clear()
    _abandoned.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
gc.callbacks.append(_watch_collection)
