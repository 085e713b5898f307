"""The bundled checkpoint on kernels that round the rows of products: the same promises, under a name of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trimode as tm
from trimode.engine.errors import RequestError
from trimode.kernels import ops
from trimode.kernels.native.rounding import ROUNDINGS
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.calibrate import path_of
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import Engines, replay

WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("native-bf16", {}),
    ("native-int8", {"quantize": "int4", "quantize_head": True}),
)
HERE = [(name, words) for name, words in WAYS if set(ROUNDINGS[name].features) & set(ops.processor().split())]
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "ar"},
    {"mode": "linear_spec", "block_length": 8},
    {"mode": "quadratic_spec", "block_length": 5},
)
PROMPTS = ("I want to book a table for", "The weather in", "Please find me a flight", "One, two, three,")


@pytest.fixture(scope="module", params=HERE, ids=lambda way: way[0])
def rounding(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine for each of the kernels that this processor has the instruction for; none where it has neither."""
    name, words = request.param
    engine = Engine.load(kernels=name, **words)
    yield engine
    engine.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_exact_modes_agree(rounding: Engine, temperature: float) -> None:
    async def together(prompt: str, seed: int) -> list[tuple[int, ...]]:
        words: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_tokens": 64}
        results = await asyncio.gather(*(rounding.agenerate(prompt, **words, **mode) for mode in MODES))
        return [one.token_ids for one in results]

    tokens = 0
    for seed, prompt in enumerate(PROMPTS):
        alone = rounding.generate(prompt, mode="ar", temperature=temperature, seed=seed, max_tokens=64).token_ids
        assert asyncio.run(together(prompt, seed)) == [alone] * len(MODES)
        tokens += len(alone)
    assert tokens > 100


def test_their_name_is_everywhere(rounding: Engine, tmp_path: Path) -> None:
    name = rounding.runtime.kernels
    assert rounding.kernels.startswith(f"{name} (asked for), ")
    assert rounding.kernels.endswith("rows checked to agree")
    path = tmp_path / "audit.jsonl"
    with tm.session(rounding, policy=tm.Policy(), trace=f"file:{path}", content=True):
        result = rounding.generate(PROMPTS[0], mode="linear_spec", max_tokens=12)
    assert result.stats.kernels == name
    (record,) = records(read_audit(path))
    assert record.runtime.kernels == name
    assert path_of("cost", record.runtime) != path_of("cost", replace(record.runtime, kernels="native"))
    again = Engines().of(record.runtime)
    assert again.runtime == record.runtime
    assert replay(record, again).outcome == "same"
    again.close()


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        ("native-bf16", {"dtype": "bfloat16"}),
        ("native-bf16", {"quantize": "int8"}),
        ("native-int8", {"dtype": "bfloat16"}),
        ("native-int8", {"quantize": "fp8"}),
        ("native-int8", {}),
    ],
)
def test_what_they_cannot_do_is_refused(kernels: str, words: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=rf"kernels='{kernels}': .*; kernels='auto' takes what can run"):
        Engine.load(kernels=kernels, **words)
