"""Runs asks: waits for a slot, decodes, and gives the events of all choices in the order in which they happen.

Knows queues, deadlines and tasks. Does not know HTTP, or how one choice is decoded. Each choice is decoded by a task of
its own, which takes the engine's output at once whatever the caller does: a slow reader holds text, and neither pages
nor a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trimode.policy.calls import Call

from ..refusals import OutOfTime, ShuttingDown
from .ask import Ask
from .decoder import Decoder, Put
from .events import Event
from .fair_queue import FairQueue

T = TypeVar("T")


@dataclass(slots=True)
class Runner:
    """One engine's asks. `timeout`: seconds for each, waiting included. `draining`: nothing new begins."""

    decoder: Decoder
    queue: FairQueue
    timeout: float
    draining: bool = False

    async def events(self, asks: Sequence[Ask]) -> AsyncGenerator[Event]:
        """Yields the events of all choices, numbered through all asks. Closing it cancels what runs, within one pass.

        Raises TooManyWaiting, OutOfTime, ShuttingDown, and what the engine raises.
        """
        calls = self._admitted(asks)
        happened: asyncio.Queue[Event | asyncio.Task[None]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._choice(ask, call, index, happened.put_nowait))
            for index, (ask, call) in enumerate(calls)
        ]
        for task in tasks:
            task.add_done_callback(happened.put_nowait)
        try:
            running = len(tasks)
            while running:
                event = await happened.get()
                if not isinstance(event, asyncio.Task):
                    yield event
                    continue
                event.result()  # raises what ended the choice
                running -= 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def in_slot(self, ask: Ask, work: Awaitable[T]) -> T:
        """Returns what `work` returns, done in a slot and in the scope of who asks, under the limits of its time.

        Raises what `events` raises.
        """
        self._check_running()
        try:
            async with asyncio.timeout(self.timeout), self.queue.slot(ask.caller.tenant, self.timeout):
                with self.decoder.maker.inside(ask):
                    return await work
        except TimeoutError:
            raise OutOfTime(f"the output was not complete within {self.timeout:g} s") from None

    def _check_running(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is shutting down; send the request again", retry_after=1)

    def _admitted(self, asks: Sequence[Ask]) -> list[tuple[Ask, Call]]:
        """Returns the calls of the asks, one a choice, if they may at least wait."""
        self._check_running()
        self.queue.check(sum(ask.n for ask in asks), asks[0].caller.tenant)
        return [(ask, call) for ask in asks for call in self.decoder.maker.calls(ask)]

    async def _choice(self, ask: Ask, call: Call, index: int, put: Put) -> None:
        """Decodes one choice in its slot, under the limits of its time."""
        deadline = ask.policy.settings.get("deadline", self.timeout)
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.queue.slot(ask.caller.tenant, min(deadline, self.timeout)),
            ):
                await self.decoder.decode(ask, call, index, put)
        except TimeoutError:
            raise OutOfTime(f"the output was not complete within {self.timeout:g} s") from None
