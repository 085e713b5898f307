"""The life of an engine: what ends it, what it leaves behind, and what callers hear when it fails."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import small
import torch

from trimode.engine import serving_thread
from trimode.engine.errors import EngineStopped, NonFiniteLogits, RequestError
from trimode.engine.locks import ForkSafeLock
from trimode.engine.options import ArOptions, LinearSpecOptions, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.scoring import ScoreRequest
from trimode.engine.token_engine import TokenEngine

MODES = (ArOptions(), LinearSpecOptions(block_length=4), QuadraticSpecOptions(block_length=4))
ENDLESS = small.with_ends(small.MASK)


def request(prompt: Sequence[int] = (1, 2, 3), tokens: int = 6) -> DecodeRequest:
    return DecodeRequest(prompt=cast(Any, prompt), max_tokens=tokens)


def serving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trimode-scheduler"]


def gone(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_an_engine_that_nobody_refers_to_is_freed_with_its_thread_and_pages() -> None:
    before = serving()
    gc.disable()  # references alone have to do
    try:
        engine = small.engine(small.model(1))
        engine.decode(request())
        mine = [thread for thread in serving() if thread not in before]
        kept: list[weakref.ref[Any]] = [
            weakref.ref(engine),
            weakref.ref(engine.scheduler),
            weakref.ref(engine.pool),
            weakref.ref(engine.runner),
        ]
        assert len(mine) == 1
        del engine
        assert gone(mine)
        assert [one() for one in kept] == [None] * 4
    finally:
        gc.enable()


def test_calls_on_their_way_end_though_nobody_refers_to_the_engine() -> None:
    engine = small.engine(small.model(1, ENDLESS))
    future = engine.submit(request(tokens=300))
    del engine
    assert len(future.result(60).token_ids) == 300


def test_the_thread_ends_when_idle_and_another_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_thread, "IDLE_SECONDS", 0.01)
    before = serving()
    engine = small.engine(small.model(1))
    first = engine.decode(request())
    assert gone([thread for thread in serving() if thread not in before])
    assert engine.decode(request()).token_ids == first.token_ids
    engine.close()


def test_leaving_the_context_closes() -> None:
    with small.engine(small.model(1)) as engine:
        engine.decode(request())
    with pytest.raises(RequestError, match="the engine is closed"):
        engine.decode(request())
    engine.close()


@pytest.mark.parametrize("prompt", [[1, 2, 3], np.array([1, 2, 3]), (np.int64(1), 2, 3), range(1, 4)])
def test_prompts_are_sequences_of_integers_of_any_kind(prompt: Any) -> None:
    engine = small.engine(small.model(1))
    assert engine.decode(request(prompt)).token_ids == engine.decode(request()).token_ids


@pytest.mark.parametrize("prompt", [(1.0, 2.0), ("a",), [None]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(RequestError, match="expected token ids"):
        small.engine(small.model(1)).decode(request(prompt))


def test_an_error_of_the_thread_reaches_every_caller_and_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small.engine(small.model(1, ENDLESS))
    first = threading.Event()
    futures = [engine.submit(request(tokens=3000), lambda _: first.set()) for _ in range(3)]
    assert first.wait(30)

    def broken() -> None:
        raise ZeroDivisionError("never")

    monkeypatch.setattr(engine.scheduler, "_drop_cancelled", broken)
    for future in futures:
        error = future.exception(30)
        assert isinstance(error, EngineStopped)
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert "ZeroDivisionError: never" in str(error)
        assert pickle.loads(pickle.dumps(error)).cause == error.cause
    with pytest.raises(EngineStopped):
        engine.decode(request())
    engine.close()


def poisoned(kernels: str, change: str) -> TokenEngine:
    """An engine whose weights are damaged once it is loaded."""
    model = small.model(1, rank=4)
    engine = TokenEngine(model, small.text, small.TEXT_VOCAB, kernels=kernels, kv_bytes=1 << 22)
    stack = engine.runner.stack
    targets = {
        "the embedding": lambda: model.encoder.embed_tokens.weight,
        "layer 0 of 0 to 1": lambda: stack.blocks[0].norms[0],
        "layer 1 of 0 to 1": lambda: stack.blocks[1].norms[1],
        "the output head or the norm before it": lambda: stack.norm,
    }
    with torch.inference_mode():
        targets[change]().fill_(float("nan") if change != "layer 1 of 0 to 1" else 1e38)
    return engine


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(
    "options", [ArOptions(), LinearSpecOptions(block_length=4), QuadraticSpecOptions(block_length=4)]
)
@pytest.mark.parametrize(
    "where",
    ["the embedding", "layer 0 of 0 to 1", "layer 1 of 0 to 1", "the output head or the norm before it"],
)
def test_logits_that_are_not_finite_name_the_pass_and_the_part(kernels: str, options: Any, where: str) -> None:
    engine = poisoned(kernels, where)
    for ask in (
        DecodeRequest(prompt=(1, 2, 3), max_tokens=8, options=options),
        ScoreRequest(prompt=(1, 2), candidates=((1,), (2,))),
    ):
        with pytest.raises(NonFiniteLogits, match=f"first in {where}") as caught:
            engine.decode(ask)
        assert caught.value.number == engine.scheduler.passes
        assert caught.value.where == where
    engine.index.clear()
    assert engine.pool.free == engine.pool.pages
    engine.close()


def test_a_lock_is_open_again_after_renewal() -> None:
    lock, taken = ForkSafeLock(), threading.Event()

    def enter() -> None:
        lock.__enter__()
        taken.set()

    def pass_through() -> None:
        with lock:
            pass

    threading.Thread(target=enter).start()
    assert taken.wait(10)
    lock.renew()
    other = threading.Thread(target=pass_through, daemon=True)
    other.start()
    assert gone([other])
