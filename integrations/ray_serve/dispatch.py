"""Runs asks on replicas: sends them to one, and to another if that one is lost before the answer is complete.

Knows work, hints and what was delivered. Does not know Ray: `Replicas` stands for it. The same asks are decoded again
with the same seeds, so exact modes give the same tokens, and a stream goes on where it broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from ..server.asks.ask import Ask
from ..server.asks.events import Event, Finished
from ..server.refusals import OutOfTime, ReplicasLost
from .delivered import Delivered
from .hints import Hints, Lengths, hints_of
from .meters import DoorMeters
from .work import Answered, Batch, Exchanged, Failed, Sent, Work, work_of

T = TypeVar("T")
S = TypeVar("S", bound=Sent)
ATTEMPTS: Final = 5
"""Replicas that may be lost with one request. Losing more points at the request itself."""


class ReplicaLost(Exception):
    """The replica is gone, or cannot be reached. `replica`: its name, "" if it never answered."""

    def __init__(self, replica: str, why: str) -> None:
        super().__init__(why)
        self.replica = replica


class Replicas(Protocol):
    """The replicas of one engine, behind a router."""

    def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        """Yields the replica's name, then its events. Raises ReplicaLost and TooManyWaiting."""
        ...

    async def answer(self, asked: Exchanged) -> Answered:
        """Returns a replica's response. Raises ReplicaLost and TooManyWaiting."""
        ...


@dataclass(slots=True)
class Dispatcher:
    """The runner of the door. `timeout`: seconds for each request, waiting and all attempts included."""

    replicas: Replicas
    timeout: float
    meters: DoorMeters
    lengths: Lengths = field(default_factory=Lengths)

    async def events(self, asks: Sequence[Ask]) -> AsyncGenerator[Event]:
        """Yields the events of all choices. Closing it cancels what runs.

        Raises ReplicasLost, ReplayDiffers, OutOfTime, TooManyWaiting, and what the replica's engine raises.
        """
        delivered, end = Delivered(), asyncio.get_running_loop().time() + self.timeout
        work: Work | None = work_of(asks, hints_of(asks, self.lengths))
        while work is not None:
            attempt = Attempt(work)
            async with aclosing(attempt.events(self.replicas, end)) as events:
                async for event in events:
                    for told in delivered.feed(event):
                        self._note(asks, told)
                        yield told
            work = None if attempt.lost is None else self._next(work, attempt.lost)
            delivered.again()

    async def answer(self, asked: Exchanged) -> Answered:
        """Returns a replica's response to a whole request. Raises ReplicasLost, OutOfTime and TooManyWaiting."""
        end = asyncio.get_running_loop().time() + self.timeout
        while True:
            try:
                return await _in_time(self.replicas.answer(asked), end)
            except ReplicaLost as error:
                asked = self._next(asked, error)

    def _next(self, sent: S, lost: ReplicaLost) -> S:
        """Returns the request for its next attempt. Raises ReplicasLost after the last."""
        self.meters.lost(lost.replica)
        if sent.attempt == ATTEMPTS:
            raise ReplicasLost(f"{ATTEMPTS} replicas were lost with this request; the last one: {lost}") from lost
        return replace(sent, attempt=sent.attempt + 1, hints=_without(sent.hints, lost.replica), route=None)

    def _note(self, asks: Sequence[Ask], event: Event) -> None:
        """Learns from a finished output."""
        if isinstance(event, Finished):
            self.meters.served(event)
            self.lengths.learn(_ask_of(asks, event.choice), event.usage.output)


@dataclass(slots=True)
class Attempt:
    """One try of a request on one replica. `lost`: what ended it early; None if it came to its end."""

    work: Work
    replica: str = ""
    lost: ReplicaLost | None = None

    async def events(self, replicas: Replicas, end: float) -> AsyncGenerator[Event]:
        """Yields the replica's events until they end or it is lost. Raises the error that the replica tells."""
        async with aclosing(replicas.events(self.work)) as coming:
            try:
                while (got := await _in_time(anext(coming, None), end)) is not None:
                    if isinstance(got, str):
                        self.replica = got
                        continue
                    for one in got:
                        if isinstance(one, Failed):
                            raise one.error
                        yield one
            except ReplicaLost as error:
                self.lost = ReplicaLost(error.replica or self.replica, str(error))


async def _in_time(work: Awaitable[T], end: float) -> T:
    """Returns what `work` returns. Raises OutOfTime after `end`, seconds of the loop's clock."""
    try:
        async with asyncio.timeout_at(end):
            return await work
    except TimeoutError:
        raise OutOfTime("no replica completed the output in the time of a request") from None


def _without(hints: Hints, replica: str) -> Hints:
    return replace(hints, avoid=(*hints.avoid, replica)) if replica and replica not in hints.avoid else hints


def _ask_of(asks: Sequence[Ask], choice: int) -> Ask:
    """Returns the ask of a choice, which are numbered through all asks."""
    for ask in asks:
        if choice < ask.n:
            return ask
        choice -= ask.n
    raise LookupError(f"choice {choice} of {len(asks)} asks")
