"""What people pass by mistake ends within seconds, in an error of ours or in a note; nothing is dropped silently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import TABLE, Bad

import trimode as tm
from trimode.policy.calls.engine import Engine
from trimode.testing import FakeEngine

SECONDS = 10


@pytest.fixture(scope="module")
def thread() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(1)
    yield executor
    executor.shutdown(wait=False)


def test_the_table_is_long_and_names_are_told_apart() -> None:
    assert len(TABLE) >= 150
    assert len({bad.name for bad in TABLE}) == len(TABLE)


@pytest.fixture(scope="module")
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_bad_input(
    bad: Bad,
    thread: ThreadPoolExecutor,
    fake: FakeEngine,
    reference: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    future = thread.submit(bad.run, fake, reference)
    if isinstance(bad.expected, str):
        assert re.search(re.escape(bad.expected), "\n".join(future.result(SECONDS).notes))
        return
    with pytest.raises(bad.expected) as caught:
        future.result(SECONDS)
    assert isinstance(caught.value, tm.TrimodeError)
    assert len(str(caught.value)) < 1500
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers() -> None:
    engine = FakeEngine()
    words = {"max_tokens": np.int64(9), "seed": np.uint8(3), "temperature": np.float32(0.5), "top_k": np.int16(2)}
    settings = engine.generate("x", **words).plan.settings  # type: ignore[arg-type]
    assert (settings.max_tokens, settings.seed, settings.temperature, settings.top_k) == (9, 3, 0.5, 2)
    assert {type(value) for value in settings.said().values()} <= {int, float, str, list}
    assert engine.generate(prompt_ids=list(np.array([5, 6]))).stats.prompt_tokens == 2
    assert tm.Budget(tokens=np.int32(7), seconds=np.float32(2)).tokens == 7  # type: ignore[arg-type]
