"""One client's connection while its request runs: work ends when the client leaves, streams keep it alive.

Knows ASGI's messages and tasks. Does not know what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, Generic, TypeVar

from ..refusals import CallerLeft

T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
QUIET: Final = object()
"""What `Feed.next` returns where nothing came in time."""
END: Final = object()
"""What `Feed.next` returns after the last item."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Returns what `work` returns. Cancels it, waits for its end and raises CallerLeft if the client leaves before."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerLeft("the client closed the connection")
    finally:
        await _ended(task, gone)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has left; the body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Feed(Generic[T]):
    """The items of an asynchronous generator, with a look at the clock between them."""

    def __init__(self, items: AsyncGenerator[T]) -> None:
        self._items = items
        self._coming: asyncio.Task[T | object] | None = None

    async def next(self, seconds: float) -> T | object:
        """Returns the next item, QUIET if none came within `seconds`, END after the last. Raises what ended them."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._next())
        done, _ = await asyncio.wait((self._coming,), timeout=seconds)
        if not done:
            return QUIET
        coming, self._coming = self._coming, None
        return coming.result()

    async def _next(self) -> T | object:
        return await anext(self._items, END)

    async def aclose(self) -> None:
        """Ends the generator; what it waits for is cancelled."""
        if self._coming is not None:
            await _ended(self._coming)
        await self._items.aclose()
