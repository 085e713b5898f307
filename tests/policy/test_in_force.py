"""What holds inside a `with` block, in generators, tasks and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager

from trimode.policy.in_force import InForce

VALUE = InForce("test_value", "none")


@contextmanager
def held(value: str) -> Generator[None]:
    entry = VALUE.enter(value)
    try:
        yield
    finally:
        VALUE.leave(entry)


def test_the_innermost_holds_and_ends() -> None:
    assert VALUE.get() == "none"
    with held("outer"):
        with held("inner"):
            assert VALUE.get() == "inner"
        assert VALUE.get() == "outer"
        with ExitStack() as stack:
            stack.enter_context(held("stacked"))
            assert VALUE.get() == "stacked"
    assert VALUE.get() == "none"


async def values(seen: list[str]) -> AsyncGenerator[int]:
    with held("generator"):
        for number in range(3):
            seen.append(VALUE.get())
            await asyncio.sleep(0)
            seen.append(await asyncio.create_task(asked()))
            seen.append(await asyncio.to_thread(VALUE.get))
            yield number


async def asked() -> str:
    await asyncio.sleep(0)
    return VALUE.get()


def test_an_async_generator_holds_for_itself_and_not_for_who_iterates() -> None:
    async def run() -> None:
        seen = list[str]()
        with held("caller"):
            async for _ in values(seen):
                assert VALUE.get() == "caller"
            assert VALUE.get() == "caller"
        assert VALUE.get() == "none"
        assert set(seen) == {"generator"}
        assert len(seen) == 9

    asyncio.run(run())


def test_nothing_is_left_by_a_break() -> None:
    async def run() -> None:
        async for _ in values([]):
            break
        assert VALUE.get() == "none"
        with held("next"):
            assert VALUE.get() == "next"
            await asyncio.sleep(0.01)  # meanwhile another task closes the generator
            assert VALUE.get() == "next"
        assert VALUE.get() == "none"
        assert await asyncio.create_task(asked()) == "none"

    asyncio.run(run())


def test_closing_early_ends_it() -> None:
    async def run() -> None:
        async with aclosing(values([])) as numbers:
            async for _ in numbers:
                break
        assert VALUE.get() == "none"

    asyncio.run(run())


@asynccontextmanager
async def aheld(value: str) -> AsyncGenerator[None]:
    with held(value):
        yield


@contextmanager
def wrapped(value: str) -> Generator[None]:
    with held(value):
        yield


def test_context_managers_that_are_generators_hold_for_their_block() -> None:
    async def run() -> None:
        async with aheld("async"):
            assert VALUE.get() == "async"
            assert await asked() == "async"
        assert VALUE.get() == "none"

    asyncio.run(run())
    with wrapped("sync"):
        assert VALUE.get() == "sync"
    assert VALUE.get() == "none"


def test_tasks_keep_what_held_when_they_started_and_threads_begin_without() -> None:
    async def run() -> None:
        with held("started"):
            task = asyncio.create_task(asked())
        assert VALUE.get() == "none"
        assert await task == "started"

    asyncio.run(run())
    found = list[str]()
    with held("here"):
        thread = threading.Thread(target=lambda: found.append(VALUE.get()))
        thread.start()
        thread.join()
    assert found == ["none"]


def test_values_that_end_in_another_order_than_they_began_are_gone_for_later_tasks() -> None:
    first, second = VALUE.enter("first"), VALUE.enter("second")
    VALUE.leave(first)
    assert VALUE.get() == "second"
    VALUE.leave(second)
    assert VALUE.get() == asyncio.run(asked()) == "none"
