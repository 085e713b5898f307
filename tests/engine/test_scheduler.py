"""One engine under load: many threads and tasks, requests that come and are cancelled, full memory and a full queue.

Each request must get what it gets alone, and in every case its pages must be freed.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import small
import torch
from mixed import mixed_requests

from trimode.engine.constraint import WHOLE
from trimode.engine.decoding.state import PREFILL_CHUNK
from trimode.engine.errors import CallCancelled, KvMemoryExceeded, QueueFull, RequestError
from trimode.engine.jobs import Update
from trimode.engine.kv_cache.pages import page_bytes
from trimode.engine.options import ArOptions, LinearSpecOptions, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.result import Section
from trimode.engine.token_engine import TokenEngine

ENDLESS = small.with_ends(small.MASK)
PAGE_BYTES = page_bytes(small.CONFIG, torch.float32)


def endless(pages: int = 64, queue: int = 1024, *, keep_prefixes: bool = True) -> TokenEngine:
    made = small.model(1, ENDLESS, shared=2)
    return small.engine(made, keep_prefixes=keep_prefixes, kv_bytes=pages * PAGE_BYTES, queue=queue)


def long(tokens: int = 3000, prompt: tuple[int, ...] = (1, 2)) -> DecodeRequest:
    return DecodeRequest(prompt=prompt, max_tokens=tokens)


def all_free(engine: TokenEngine) -> bool:
    engine.index.clear()
    return engine.pool.free == engine.pool.pages


@pytest.fixture
def started() -> Callable[[TokenEngine, DecodeRequest], Future[Any]]:
    """Submits a request and returns once it has had a pass."""

    def start(engine: TokenEngine, request: DecodeRequest) -> Future[Any]:
        first = threading.Event()
        future = engine.submit(request, lambda _: first.set())
        assert first.wait(30)
        return future

    return start


def settled(engine: TokenEngine) -> None:
    """Returns when nothing runs or waits; a short request behind the others proves that a pass has gone by."""
    engine.decode(DecodeRequest(prompt=(1,), max_tokens=1))


def test_threads_get_what_each_request_gets_alone() -> None:
    model = small.model(3, shared=2, rank=2)
    engine, count = small.engine(model), 24
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(engine.decode, mixed_requests(3, count)))
    for request, found in zip(mixed_requests(3, count), together, strict=True):
        alone = small.engine(model, keep_prefixes=False).decode(request)
        assert found.token_ids == alone.token_ids
        assert found.rounds == alone.rounds
    assert engine.scheduler.passes < sum(found.stats.forward_passes + 1 for found in together)
    assert all_free(engine)


def test_mode_runs_say_whose_rows_shared_the_passes() -> None:
    engine = endless()
    alone = engine.decode(long(20)).stats
    (one,) = alone.mode_runs
    assert (one.mode, one.passes, one.rows) == ("ar", alone.forward_passes, alone.query_tokens)
    assert (one.pass_rows, one.pass_calls) == (one.rows, one.passes)
    assert 0 < one.seconds <= alone.seconds
    drafts = LinearSpecOptions(block_length=4)
    pair = [long(200), replace(long(200, prompt=(3, 4)), options=drafts)]
    found = [future.result().stats for future in [engine.submit(request) for request in pair]]
    assert [[one.mode for one in stats.mode_runs] for stats in found] == [["ar"], ["linear_spec"]]
    for stats in found:
        (one,) = stats.mode_runs
        assert (one.passes, one.rows) == (stats.forward_passes, stats.query_tokens)
        assert one.passes < one.pass_calls <= 2 * one.passes
        assert one.pass_rows > one.rows


def test_tasks_get_what_each_request_gets_alone() -> None:
    model = small.model(4, shared=2)
    engine, count = small.engine(model), 12

    async def main() -> list[Any]:
        return await asyncio.gather(*(engine.adecode(request) for request in mixed_requests(4, count)))

    for request, found in zip(mixed_requests(4, count), asyncio.run(main()), strict=True):
        assert found.token_ids == small.engine(model, keep_prefixes=False).decode(request).token_ids


def test_a_cancelled_task_frees_its_pages() -> None:
    engine = endless()

    async def main() -> None:
        task = asyncio.create_task(engine.adecode(long()))
        while not engine.scheduler.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    settled(engine)
    assert engine.scheduler.running == 0
    assert all_free(engine)


def test_cancelling_frees_within_one_pass(started: Callable[[TokenEngine, DecodeRequest], Future[Any]]) -> None:
    engine = endless(keep_prefixes=False)
    future = started(engine, long())
    assert engine.pool.free < engine.pool.pages
    future.cancel()
    passes = engine.scheduler.passes
    settled(engine)
    assert engine.scheduler.passes <= passes + 2  # one may have been on its way, one is the short request's
    assert engine.pool.free == engine.pool.pages


def test_what_waits_may_be_cancelled_too(started: Callable[[TokenEngine, DecodeRequest], Future[Any]]) -> None:
    engine = endless(pages=48)
    running = started(engine, long())
    waiting = engine.submit(long())
    waiting.cancel()
    running.cancel()
    settled(engine)
    assert engine.scheduler.waiting == 0
    assert all_free(engine)


def test_a_request_waits_until_its_pages_are_free(started: Callable[[TokenEngine, DecodeRequest], Future[Any]]) -> None:
    engine = endless(pages=48)
    running = started(engine, long())
    second = engine.submit(long(100, (5, 6, 7)))
    third = engine.submit(long(100, (8,)))
    assert engine.scheduler.waiting + engine.scheduler.running == 3
    running.cancel()
    expected = [endless().decode(long(100, prompt)).token_ids for prompt in ((5, 6, 7), (8,))]
    assert [second.result().token_ids, third.result().token_ids] == expected


def test_a_request_beyond_all_memory_is_refused() -> None:
    engine = endless(pages=4)
    with pytest.raises(KvMemoryExceeded, match=r"need .* bytes .* the engine has .*; .* more kv_bytes") as caught:
        engine.decode(long(300))
    assert caught.value.need == 5 * PAGE_BYTES
    assert caught.value.limit == 4 * PAGE_BYTES
    assert len(engine.decode(long(254)).token_ids) == 254


def test_a_request_that_needs_every_page_gives_up_the_prefix_it_would_copy() -> None:
    engine = endless(pages=4)
    prompt = small.prompt(4, 100)
    engine.decode(DecodeRequest(prompt=prompt, max_tokens=20))
    whole = DecodeRequest(prompt=(*prompt[:90], *small.prompt(5, 10)), max_tokens=4 * 64 - 100)
    found = engine.submit(whole).result(timeout=30)
    assert found.stats.cached_tokens == 64
    assert found.token_ids == endless().decode(whole).token_ids


def test_a_full_queue_is_refused(started: Callable[[TokenEngine, DecodeRequest], Future[Any]]) -> None:
    engine = endless(pages=48, queue=2)
    futures = [started(engine, long()), engine.submit(long()), engine.submit(long())]
    with pytest.raises(QueueFull, match=r"1 more would join 2 waiting requests, at most 2 may wait"):
        engine.submit(long())
    with pytest.raises(QueueFull):
        endless(queue=1).decode_many([long(2), long(2)])
    for future in futures:
        future.cancel()
    settled(engine)


def test_token_budget_cancels_and_refuses(started: Callable[[TokenEngine, DecodeRequest], Future[Any]]) -> None:
    engine = endless(pages=48)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            engine.decode(long())
        except CallCancelled as error:
            caught.append(error)

    started(engine, long()).cancel()
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    while engine.scheduler.running + engine.scheduler.waiting < 2:
        threading.Event().wait(0.001)
    engine.close()
    for thread in threads:
        thread.join()
    assert len(caught) == 2
    with pytest.raises(RequestError, match="closed"):
        engine.decode(long(1))


def test_a_long_prompt_stalls_nobody() -> None:
    engine = small.engine(small.model(1, ENDLESS), kv_bytes=200 * PAGE_BYTES)
    seen: list[tuple[int, int]] = []  # (passes so far, tokens so far) of the short request
    running = engine.submit(long(200), lambda update: seen.append((engine.scheduler.passes, len(update.tokens))))
    prompt = small.prompt(1, 8 * PREFILL_CHUNK)
    result = engine.decode(DecodeRequest(prompt=prompt, max_tokens=3))
    running.result()
    assert result.stats.prefill_passes == 8
    steps = [b - a for (a, _), (b, _) in pairwise(seen)]
    assert max(steps) == 1, "the running request had a token in every pass"


def test_chunks_change_no_token() -> None:
    model = small.model(2, ENDLESS, shared=2)
    for options in (ArOptions(), LinearSpecOptions(block_length=8), QuadraticSpecOptions(block_length=6)):
        prompt = small.prompt(2, 2 * PREFILL_CHUNK + 17)
        whole = DecodeRequest(prompt=prompt, options=options, max_tokens=20)
        engine = small.engine(model)
        engine.decode(replace(whole, prompt=prompt[:300], max_tokens=1))
        again = engine.decode(whole)
        cold = small.engine(model).decode(whole)
        assert cold.stats.prefill_passes == 3
        assert again.stats.prefill_passes == 1
        assert again.stats.prefilled_tokens == len(prompt) - 300
        assert again.token_ids == cold.token_ids


class Broken:
    """A constraint that fails in the middle of a text."""

    @property
    def section(self) -> Section:
        return WHOLE

    def __init__(self, left: int) -> None:
        self.left = left

    def mask(self) -> torch.Tensor:
        return torch.full((2,), -1, dtype=torch.int32)

    def forced(self) -> list[int]:
        return []

    def allows(self, _: int) -> bool:
        return True

    def advance(self, tokens: Any) -> None:
        self.left -= len(tokens)
        if self.left < 0:
            raise ArithmeticError("no more")

    def fork(self) -> Broken:
        return Broken(self.left)

    def completion(self, _: int) -> list[int] | None:
        return None

    def leads(self, _: int, limit: int) -> bool:
        return limit < 0


class Unreadable(Broken):
    """One that refuses each choice, and whose mask cannot be had in the middle of a text."""

    def allows(self, _: int) -> bool:
        return False

    def mask(self) -> torch.Tensor:
        if self.left == 0:
            raise ArithmeticError("no more")
        return super().mask()

    def fork(self) -> Unreadable:
        return Unreadable(self.left)


@pytest.mark.parametrize("constraint", [Broken(5), Unreadable(5)], ids=["tokens", "masks"])
@pytest.mark.parametrize("options", [ArOptions(), LinearSpecOptions(block_length=3)], ids=["ar", "linear_spec"])
def test_what_one_request_raises_is_its_own(constraint: Broken, options: ArOptions | LinearSpecOptions) -> None:
    engine = endless()
    bystander = engine.submit(long(60))
    asked = DecodeRequest(prompt=(1, 2), options=options, max_tokens=40, constraint=constraint.fork())
    with pytest.raises(ArithmeticError, match="no more"):
        engine.decode(asked)
    assert bystander.result().token_ids == endless().decode(long(60)).token_ids
    assert all_free(engine)


def test_a_prompts_pages_serve_others_while_it_runs(
    started: Callable[[TokenEngine, DecodeRequest], Future[Any]],
) -> None:
    engine = endless(pages=120)
    prompt = small.prompt(3, 150)
    running = started(engine, long(2000, prompt))
    assert engine.decode(DecodeRequest(prompt=prompt, max_tokens=2)).stats.cached_tokens >= 128
    running.cancel()


def test_prompts_that_begin_alike_are_computed_once() -> None:
    engine, alike = endless(pages=200), small.prompt(3, 2 * PREFILL_CHUNK + 50)
    requests = [long(6, (*alike, *small.prompt(tail, 5 + tail))) for tail in range(6)]
    together = engine.decode_many(requests)
    computed = [found.stats.prefilled_tokens for found in together]
    assert computed[0] == len(requests[0].prompt)
    assert all(0 < more < 64 + len(r.prompt) - len(alike) for more, r in zip(computed[1:], requests[1:], strict=True))
    for request, found in zip(requests, together, strict=True):
        assert found.token_ids == endless(pages=200, keep_prefixes=False).decode(request).token_ids


def test_who_waits_for_a_prefix_goes_on_when_it_is_given_up() -> None:
    engine, prompt = endless(pages=200), small.prompt(3, 4 * PREFILL_CHUNK)
    first = engine.submit(long(500, prompt))
    other = engine.submit(long(3, prompt))
    stranger = engine.submit(long(3, small.prompt(4, 100)))
    first.cancel()
    assert len(stranger.result(timeout=60).token_ids) == 3
    assert other.result(timeout=60).token_ids == endless(pages=200).decode(long(3, prompt)).token_ids
    settled(engine)
    assert all_free(engine)


def test_the_answer_is_read_from_the_cache_with_its_end() -> None:
    """A verified end token has no entry of its own; a follow-up that holds it must not find one."""
    ended = 0
    for seed in range(20):
        model = small.model(seed, small.with_ends(*range(0, 38, 3)), shared=4, sharpness=2)
        engine = small.engine(model)
        request = DecodeRequest(prompt=small.prompt(seed, 9), options=LinearSpecOptions(block_length=8), max_tokens=30)
        first = engine.decode(request)
        ended += first.finish_reason == "stop" and first.rounds[-1].origins.endswith("a")
        follow = replace(request, prompt=(*request.prompt, *first.token_ids, *small.prompt(seed, 5)))
        warm = engine.decode(follow)
        assert warm.stats.cached_tokens >= len(request.prompt) + len(first.token_ids) - 1
        assert warm.rounds == small.engine(model).decode(follow).rounds
    assert ended > 0


@dataclass
class Quitter:
    """Gives its request up once that many tokens are there."""

    patience: int
    future: Future[Any] | None = None

    def watch(self, update: Update) -> None:
        if self.future is not None and len(update.tokens) >= self.patience:
            self.future.cancel()


def test_a_soak_with_random_cancels_ends_with_all_pages_free() -> None:
    soaked = small.engine(small.model(5, shared=2, rank=2), kv_bytes=40 * PAGE_BYTES, queue=2000)
    chance = random.Random(7)
    requests = [request for seed in range(20) for request in mixed_requests(seed, 50)]
    futures: list[Future[Any]] = []
    for at, request in enumerate(requests):
        quitter = Quitter(chance.randint(0, 20) if at % 3 == 0 else 1000)
        futures.append(soaked.submit(request, quitter.watch))
        quitter.future = futures[-1]
        if chance.random() < 0.1:
            futures[chance.randrange(len(futures))].cancel()
    done = [future for future in futures if not gave_up(future)]
    assert len(done) > 500
    assert len(done) < len(futures) - 100
    settled(soaked)
    assert soaked.scheduler.running == soaked.scheduler.waiting == 0
    assert all_free(soaked)


def gave_up(future: Future[Any]) -> bool:
    """Waits for the end; True where it was cancelled. Whatever else it raises is a failure."""
    try:
        future.result(timeout=120)
    except CancelledError:
        return True
    return False
