"""Work that has to end soon, in a thread of its own: watched by the CPU time that it takes, with room on its stack.

Knows threads and clocks. CPU time, because a busy machine must not change what is admitted. The stack, because the
grammar engine recurses once a reference and once a required key, and what overflows a stack ends the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
STACK: Final = 256 << 20
"""Bytes of address space; memory is taken as it is used. 30,000 required keys need less than half."""
BLOCKED_SECONDS: Final = 10.0
"""Wall-clock time after which work counts as blocked, whatever CPU time it took."""
LEFT_BEHIND: Final = 4
"""Works of one kind that were given up and may still run before others of that kind are refused."""
_POLL: Final = 0.004
_starting: Final = threading.Lock()
_left: Final = list[threading.Thread]()


class OutOfTime(Exception):
    """The work took longer than it may; the message says so in words."""


class Crowded(OutOfTime):
    """The work was not begun: too many of its kind that were given up still run, or no thread can be started."""


def left_behind() -> list[threading.Thread]:
    """Threads whose work was given up and goes on."""
    with _starting:
        _left[:] = [thread for thread in _left if thread.is_alive()]
        return list(_left)


def in_time(work: Callable[[], T], seconds: float, kind: str = "compile") -> T:
    """What `work` returns or raises. Raises OutOfTime once it took more CPU `seconds`.

    A thread cannot be stopped: one left behind goes on until its work ends, and its result is dropped. So that they do
    not pile up, Crowded is raised while LEFT_BEHIND of the same `kind` still run. Works that begin at the same time may
    exceed that by their own number.
    """
    name = f"trimode-{kind}"
    if (still := sum(thread.name == name for thread in left_behind())) >= LEFT_BEHIND:
        raise Crowded(f"{still} others that took too long are still at work; try again in some seconds")
    done: list[T] = []
    failed: list[BaseException] = []
    clock: list[int] = []
    over = threading.Event()

    def run() -> None:
        try:
            clock.append(_own_clock())
            done.append(work())
        except BaseException as error:  # a panic of the grammar engine is no Exception
            failed.append(error)
        finally:
            over.set()

    began = time.perf_counter()
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        _start(thread)
    except RuntimeError as error:  # no room for its stack, or too many threads
        raise Crowded(f"{error}: there is no room for it on this machine now; try again in some seconds") from None
    while not over.wait(_POLL):
        wall = time.perf_counter() - began
        if wall > BLOCKED_SECONDS or (wall > seconds and _spent(clock, wall) > seconds and not over.is_set()):
            with _starting:
                _left.append(thread)
            raise OutOfTime(f"it took more than {seconds} s")
    if failed:
        raise failed[0]
    return done[0]


def _start(thread: threading.Thread) -> None:
    with _starting:
        usual = threading.stack_size(STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)


def _own_clock() -> int:
    """The calling thread's CPU clock, as others may read it; 0 on platforms that have none."""
    found: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
    return 0 if found is None else found(threading.get_ident())


def _spent(clock: list[int], wall: float) -> float:
    try:
        return time.clock_gettime(clock[0]) if clock and clock[0] else wall
    except OSError:  # the thread has just ended
        return 0.0
