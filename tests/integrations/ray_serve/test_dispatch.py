"""Requests whose replica is lost run again elsewhere; what a replica says itself is told, and limits hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from local_replicas import Scripted, asks, finished, started, text_of, told

from trimode.engine.errors import RequestError
from trimode.integrations.ray_serve.dispatch import ATTEMPTS, Dispatcher, ReplicaLost
from trimode.integrations.ray_serve.hints import Hints, Lengths, hints_of
from trimode.integrations.ray_serve.meters import DoorMeters
from trimode.integrations.ray_serve.work import Batch, Exchanged, Work, portable
from trimode.integrations.server.asks.ask import Ask, Caller, PolicyAsked
from trimode.integrations.server.asks.events import Event, TextDelta
from trimode.integrations.server.refusals import OutOfTime, ReplayDiffers, ReplicasLost, TooManyWaiting


def piece(text: str) -> TextDelta:
    return TextDelta(choice=0, text=text)


def over(replicas: Scripted, timeout: float = 30.0) -> Dispatcher:
    return Dispatcher(replicas, timeout, DoorMeters())


LOST = ReplicaLost("", "the actor died")


def test_a_stream_goes_on_where_it_broke_off() -> None:
    replicas = Scripted(
        [
            ["a", started(), piece("one "), piece("tw"), LOST],
            ["b", started(), piece("one two"), piece(" three"), finished(text="one two three")],
        ]
    )
    events = asyncio.run(told(over(replicas).events(asks())))
    assert text_of(events) == "one two three"
    assert [type(event).__name__ for event in events].count("Started") == 1
    assert [(work.attempt, work.hints.avoid) for work in replicas.work] == [(1, ()), (2, ("a",))]
    assert replicas.closed == 2


def test_a_replica_that_never_answered_is_no_name_to_avoid() -> None:
    replicas = Scripted([[LOST], ["b", finished()]])
    asyncio.run(told(over(replicas).events(asks())))
    assert replicas.work[1].hints.avoid == ()


def test_a_request_that_every_replica_dies_of_is_given_up() -> None:
    replicas = Scripted([["a", LOST]] * ATTEMPTS)
    with pytest.raises(ReplicasLost, match=f"{ATTEMPTS} replicas"):
        asyncio.run(told(over(replicas).events(asks())))
    assert len(replicas.work) == ATTEMPTS


def test_what_the_engine_refuses_is_told_and_not_tried_elsewhere() -> None:
    replicas = Scripted([["a", RequestError("top_p=0: expected above 0")]])
    with pytest.raises(RequestError, match="top_p"):
        asyncio.run(told(over(replicas).events(asks())))
    assert len(replicas.work) == 1


def test_a_full_cluster_is_told() -> None:
    with pytest.raises(TooManyWaiting):
        asyncio.run(told(over(Scripted([[TooManyWaiting("full")]])).events(asks())))


def test_another_output_is_an_error_and_not_appended() -> None:
    replicas = Scripted([["a", piece("one"), LOST], ["b", piece("two")]])

    found = list[Event]()

    async def read() -> None:
        async for event in over(replicas).events(asks()):
            found.append(event)

    with pytest.raises(ReplayDiffers):
        asyncio.run(read())
    assert found == [piece("one")]


def test_a_reader_who_leaves_closes_the_attempt() -> None:
    replicas = Scripted([["a", started(), piece("one"), piece("two")]])

    async def leave() -> None:
        events = over(replicas).events(asks())
        await anext(events)
        await events.aclose()

    asyncio.run(leave())
    assert replicas.closed == 1


class Silent(Scripted):
    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        self.work.append(work)
        yield "a"
        await asyncio.Event().wait()


def test_a_replica_that_says_nothing_ends_with_the_time_of_the_request() -> None:
    with pytest.raises(OutOfTime):
        asyncio.run(told(over(Silent([]), timeout=0.05).events(asks())))


def test_a_whole_exchange_is_answered_by_another_replica() -> None:
    replicas = Scripted([[LOST], ["ready"]])
    asked = Exchanged(request="x", hints=Hints(), method="GET", path="/ready", headers=(), body=b"")
    assert asyncio.run(over(replicas).answer(asked)).body == b"ready"


def test_metrics_count_lost_attempts_and_outputs_by_replica() -> None:
    receipt = {"served": {"replica": "b", "attempt": 2}, "record": "r", "mode": "ar", "kind": "prose"}
    dispatcher = over(Scripted([["a", started(), LOST], ["b", finished(report=receipt)]]))
    asyncio.run(told(dispatcher.events(asks())))
    text = dispatcher.meters.text({"b": "# TYPE x counter\nx_total 2.0\n"}).decode()
    assert 'trimode_door_lost_total{replica="a"} 1.0' in text
    assert 'trimode_door_outputs_total{attempt="2",replica="b"} 1.0' in text
    assert 'x_total{replica="b"} 2.0' in text


def test_the_length_of_a_step_is_learned_and_never_above_its_limit() -> None:
    lengths = Lengths()
    ask = Ask(prompt="x", n=2, settings={"max_tokens": 100}, policy=PolicyAsked(step="count"))
    assert lengths.expected(ask) == 200
    for _ in range(60):
        lengths.learn(ask, 10)
    assert lengths.expected(ask) == 20
    assert lengths.expected(Ask(prompt="x", settings={"max_tokens": 4}, policy=PolicyAsked(step="count"))) == 4


def test_hints_tell_sessions_of_two_tenants_apart() -> None:
    mine, yours = (
        hints_of([Ask(prompt="x", caller=Caller(tenant=tenant, session="s"))], Lengths()) for tenant in ("a", "b")
    )
    assert mine.session != yours.session
    assert hints_of(asks(policy=PolicyAsked(settings={"deadline": 1.0})), Lengths()).priority == 1


class Unportable(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def test_an_error_that_cannot_cross_says_what_it_was() -> None:
    assert str(portable(Unportable("no", "way"))) == "Unportable: no way"
    error = TooManyWaiting("full", retry_after=3)
    assert portable(error) is error
