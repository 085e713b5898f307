"""Replicas in this process: the door's other side without Ray. What crosses between processes is pickled here too."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trimode.integrations.ray_serve.dispatch import ReplicaLost
from trimode.integrations.ray_serve.replica import About, Replica
from trimode.integrations.ray_serve.routing import Load, routed
from trimode.integrations.ray_serve.work import Answered, Batch, Exchanged, Failed, Sent, Work
from trimode.integrations.server.asks.ask import Ask
from trimode.integrations.server.asks.events import Event, Finished, Started, TextDelta, Usage
from trimode.integrations.server.refusals import TooManyWaiting

T = TypeVar("T")


def crossed(value: T) -> T:
    found: T = pickle.loads(pickle.dumps(value))
    return found


def finished(choice: int = 0, text: str = "", **more: Any) -> Finished:
    fields: dict[str, Any] = {
        "content": text, "thinking": None, "calls": (), "finish": "stop", "usage": Usage(output=max(len(text), 1)),
        "report": {"record": "r", "mode": "ar", "kind": "prose"},
    }  # fmt: skip
    return Finished(choice=choice, **{**fields, **more})


def started(choice: int = 0) -> Started:
    return Started(choice=choice, record="r", mode="ar", kind="prose")


@dataclass
class Scripted:
    """Replicas that give scripted events, an attempt each; an exception in a script is raised."""

    attempts: list[list[str | Event | Exception]]
    work: list[Work] = field(default_factory=list)
    closed: int = 0

    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        self.work.append(crossed(work))
        try:
            for one in self.attempts[work.attempt - 1]:
                await asyncio.sleep(0)
                if isinstance(one, ReplicaLost | TooManyWaiting):
                    raise one
                yield one if isinstance(one, str) else [Failed(one) if isinstance(one, Exception) else one]
        finally:
            self.closed += 1

    async def answer(self, asked: Exchanged) -> Answered:
        script = self.attempts[asked.attempt - 1]
        if isinstance(script[0], Exception):
            raise script[0]
        return Answered(status=200, headers=(), body=str(script[0]).encode())


@dataclass
class Local:
    """Real replicas. `dying`: after how many events of a request a replica is lost; with it are all its requests."""

    replicas: dict[str, Replica]
    busy: int = 32
    dying: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    ongoing: Counter[str] = field(default_factory=Counter)

    def choose(self, sent: Sent) -> Replica:
        here = [Load(replica=name, ongoing=self.ongoing[name]) for name in self.replicas if name not in self.lost]
        sent.route = routed(sent.hints, here, self.busy)
        return self.replicas[sent.route.order[0]]

    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        replica = self.choose(work)
        self.ongoing[replica.name] += 1
        coming = replica.events(crossed(work))
        try:
            async for got in coming:
                for one in [got] if isinstance(got, str) else crossed(got):
                    self.check(replica.name, one)
                    yield one if isinstance(one, str) else [one]
        finally:
            self.ongoing[replica.name] -= 1
            await coming.aclose()

    def check(self, name: str, one: str | Event | Failed) -> None:
        """Raises ReplicaLost for a replica that is dead, or that this event is one too many for."""
        if name in self.dying and not isinstance(one, str):
            self.dying[name] -= 1
            if self.dying[name] < 0:
                self.lost.add(name)
        if name in self.lost:
            raise ReplicaLost(name, "killed")

    async def answer(self, asked: Exchanged) -> Answered:
        return crossed(await self.choose(asked).answer(crossed(asked)))

    async def about(self) -> About:
        return crossed(next(iter(self.replicas.values())).about())

    async def metrics(self) -> Mapping[str, str]:
        return dict(one.metrics() for one in self.replicas.values())


async def told(events: AsyncGenerator[Event]) -> list[Event]:
    return [event async for event in events]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def asks(n: int = 1, **more: Any) -> list[Ask]:
    return [Ask(prompt="x", n=n, stream=True, **more)]
