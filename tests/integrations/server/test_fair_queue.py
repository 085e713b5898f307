"""The queue in front of the engine: never more than its slots, nobody starves, and places are bounded."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode.integrations.server.asks.fair_queue import FairQueue
from trimode.integrations.server.refusals import OutOfTime, TooManyWaiting


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Calls that hold their slot until they are told to end; `order`: who got one, in order."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue, self.order = queue, list[str]()
        self.tasks: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []

    async def come(self, tenant: str) -> None:
        done = asyncio.Event()

        async def hold() -> None:
            async with self.queue.slot(tenant):
                self.order.append(tenant)
                await done.wait()

        self.tasks.append((tenant, asyncio.create_task(hold()), done))
        await settle()

    async def leave(self, at: int, cancel: bool = False) -> None:
        _, task, done = self.tasks.pop(at)
        if not cancel:
            done.set()
            await settle()
        if not task.done():  # one that waits for its slot leaves, too
            task.cancel()
            await settle()

    async def end(self) -> None:
        for _, task, _ in self.tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task, _ in self.tasks), return_exceptions=True)


def test_tenants_take_turns() -> None:
    async def run() -> None:
        line = Line(FairQueue(1, 10))
        for tenant in "aaaabc":
            await line.come(tenant)
        while line.tasks:
            running = next(at for at, (name, _, _) in enumerate(line.tasks) if name == line.order[-1])
            await line.leave(running)
        assert line.order == ["a", "a", "b", "c", "a", "a"]

    asyncio.run(run())


def test_a_tenant_has_at_most_its_share() -> None:
    async def run() -> None:
        queue = FairQueue(4, 4, tenant_slots=2, tenant_places=2)
        line = Line(queue)
        for tenant in "aaaab":
            await line.come(tenant)
        assert line.order == ["a", "a", "b"]
        with pytest.raises(TooManyWaiting, match="of one key 2") as caught:
            queue.check(1, "a")
        assert caught.value.retry_after
        queue.check(1, "b")
        await line.end()
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_patience_ends() -> None:
    async def run() -> None:
        queue = FairQueue(1, 2)
        async with queue.slot("a"):
            with pytest.raises(OutOfTime):
                async with queue.slot("a", 0.01):
                    raise AssertionError
            assert queue.waiting == 0

    asyncio.run(run())


def test_several_calls_of_one_request_need_a_place_each() -> None:
    async def run() -> None:
        queue = FairQueue(2, 1)
        queue.check(3, "a")
        with pytest.raises(TooManyWaiting):
            queue.check(4, "a")

    asyncio.run(run())


@given(
    st.integers(1, 3),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["come", "leave", "cancel"]), st.integers(0, 9))),
)
def test_any_history(slots: int, places: int, moves: list[tuple[str, str, int]]) -> None:
    async def run() -> None:
        queue = FairQueue(slots, places)
        line = Line(queue)
        for tenant, move, at in moves:
            if move == "come":
                await line.come(tenant)
                if line.tasks[-1][1].done():  # no place was left
                    with pytest.raises(TooManyWaiting):
                        line.tasks.pop()[1].result()
                    assert queue.waiting == places
            elif line.tasks:
                await line.leave(at % len(line.tasks), move == "cancel")
            assert queue.running == min(slots, len(line.tasks))
            assert queue.waiting == len(line.tasks) - queue.running <= places
        await line.end()
        assert (queue.running, queue.waiting) == (0, 0)
        async with AsyncExitStack() as stack:
            for _ in range(slots):
                await stack.enter_async_context(queue.slot("z"))

    asyncio.run(run())
