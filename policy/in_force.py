"""Context-local values: in force inside a `with` block and in everything called there.

Knows context variables, tasks and generators. Does not know what the values are. Tasks started inside the block inherit
a value, new threads do not. A value that an async generator enters is not visible to the code that iterates over the
generator, neither between two of its items nor after a `break`, because then the generator is closed later, possibly by
another task. A plain ContextVar would leak the value in both cases.
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
    """One entered value and the entry that it shadows (`outer`).

    `flow`: the thread and task that entered it. `generator`: frame of the async generator that entered it, None after
    its end. `iterated`: whether an async generator entered it.
    """

    value: T
    outer: _Entry[T] | None
    flow: tuple[int, object]
    generator: FrameType | None
    iterated: bool
    ended: bool = False

    @property
    def visible(self) -> bool:
        """Whether the calling code sees this value.

        Tasks that were started inside a block keep its value after the block ends. If an async generator entered the
        value, they lose it when the generator ends, because a `break` may have ended it before they were started.
        """
        if self.flow != _flow():
            return not (self.ended and self.iterated)
        return not self.ended and (self.generator is None or _runs(self.generator))


class InForce(Generic[T]):
    """A context-local value: `get` returns the innermost visible one, or `default`."""

    def __init__(self, name: str, default: T) -> None:
        self.default = default
        self._entry: ContextVar[_Entry[T] | None] = ContextVar(name, default=None)

    def get(self) -> T:
        entry = self._entry.get()
        while entry is not None and not entry.visible:
            entry = entry.outer
        return self.default if entry is None else entry.value

    def enter(self, value: T) -> _Entry[T]:
        """Puts `value` in force and returns the entry to pass to `leave`."""
        frame = _generator(_caller())
        entry = _Entry(value, self._entry.get(), _flow(), frame, frame is not None)
        self._entry.set(entry)
        return entry

    def leave(self, entry: _Entry[T]) -> None:
        """Ends the value of `entry`, also from another context, as when another task closes the generator.

        Outer values of this flow that ended before their inner one go with it, so that no task finds them later.
        """
        entry.ended, entry.generator = True, None
        if self._entry.get() is entry:
            outer, flow = entry.outer, _flow()
            while outer is not None and outer.ended and outer.flow == flow:
                outer = outer.outer
            self._entry.set(outer)


def _caller() -> FrameType | None:
    """Returns the frame of the caller's caller."""
    frame = inspect.currentframe()
    return None if frame is None or frame.f_back is None else frame.f_back.f_back


def _flow() -> tuple[int, object]:
    """Returns the current thread's id and the current task, None outside an event loop."""
    try:
        task: object = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        task = None
    return threading.get_ident(), task


def _generator(frame: FrameType | None) -> FrameType | None:
    """Returns `frame`'s async generator frame if the `with` block is in an async generator, else None.

    Frames of generator-based context managers are skipped, because what they enter is meant for their caller's block.
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
    """Returns whether `generator` is on the caller's stack."""
    frame: FrameType | None = _caller()
    while frame is not None and frame is not generator:
        frame = frame.f_back
    return frame is not None
