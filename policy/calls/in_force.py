"""Values that hold inside a `with` block, for whatever is called there, by whatever name.

Knows context variables, tasks and generators. Does not know what the values are. A value follows tasks that are started
inside; new threads begin without. What an async generator put in force does not hold for the code that iterates over
it: not between its values, and not after a `break`, when the generator is closed only later and by another task.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Final, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """`flow`: the thread and task that entered. `generator`: the frame of the async generator that did, until it ends;
    `iterated`: whether one did."""

    value: T
    outer: _Entry[T] | None
    flow: tuple[int, object]
    generator: FrameType | None
    iterated: bool
    ended: bool = False

    @property
    def holds(self) -> bool:
        """Tasks and threads that were started inside a block keep its value, though the block ends before them.

        After an async generator's end they do not: it may have ended by a `break` before they were started.
        """
        if self.flow != _flow():
            return not (self.ended and self.iterated)
        return not self.ended and (self.generator is None or _runs(self.generator))


class InForce(Generic[T]):
    """The innermost value that holds here, `default` where there is none."""

    def __init__(self, name: str, default: T) -> None:
        self.default = default
        self._entry: ContextVar[_Entry[T] | None] = ContextVar(name, default=None)

    def get(self) -> T:
        entry = self._entry.get()
        while entry is not None and not entry.holds:
            entry = entry.outer
        return self.default if entry is None else entry.value

    def enter(self, value: T) -> _Entry[T]:
        """Puts `value` in force; returns what `leave` takes."""
        frame = _generator(_caller())
        entry = _Entry(value, self._entry.get(), _flow(), frame, frame is not None)
        self._entry.set(entry)
        return entry

    def leave(self, entry: _Entry[T]) -> None:
        """Ends a value, also from another context, as when a generator that held it is closed by another task."""
        entry.ended, entry.generator = True, None
        if self._entry.get() is entry:
            self._entry.set(entry.outer)


def _caller() -> FrameType | None:
    """The frame that called whoever calls this."""
    frame = inspect.currentframe()
    return None if frame is None or frame.f_back is None else frame.f_back.f_back


def _flow() -> tuple[int, object]:
    try:
        task: object = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        task = None
    return threading.get_ident(), task


def _generator(frame: FrameType | None) -> FrameType | None:
    """The frame of the async generator whose `with` block this is, if it is one's.

    Generators that `contextlib` runs are context managers: what they put in force is for the block around them.
    """
    while frame is not None and (_is_contextlib(frame) or _is_manager(frame)):
        frame = frame.f_back
    return frame if frame is not None and frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR else None


def _is_contextlib(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") in ("contextlib", __name__)


def _is_manager(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & _GENERATORS) and _is_contextlib(frame.f_back)


_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def _runs(generator: FrameType) -> bool:
    """Whether the calling code is run by that generator, at whatever depth."""
    frame: FrameType | None = _caller()
    while frame is not None and frame is not generator:
        frame = frame.f_back
    return frame is not None
