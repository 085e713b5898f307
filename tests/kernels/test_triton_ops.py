"""Whole passes through the Triton kernels: against plain torch, a request in other batches, and mode by mode."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import pytest
import small
import torch
from devices import DTYPES, on_each_device
from torch import Tensor

from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.errors import RequestError
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool, pages_for
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.rope_config import RopeConfig
from trimode.engine.options import ArOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.gpu import norm as triton_norm
from trimode.kernels.gpu import triton_ops
from trimode.kernels.reference import torch_ops

SMALL = replace(small.CONFIG, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
"""The interpreter takes a millisecond and more for each program of each launch."""
SCALED = replace(
    SMALL,
    num_hidden_layers=2,
    rope=RopeConfig(theta=1e4, llama_4_scaling_beta=0.1, original_max_position_embeddings=4),
)
SEGMENTS = (
    Segment(start=0, trunk=small.prompt(1, 7), read=3),
    Segment(start=0, trunk=small.prompt(2, 2), branches=(Branch(tokens=small.prompt(3, 3), read=3, adapter=True),)),
    Segment(
        start=0,
        trunk=small.prompt(4, 3),
        read=1,
        branches=(Branch(tokens=small.prompt(5, 3), read=3, causal=True), Branch(tokens=small.prompt(6, 2), read=2)),
    ),
)


def logits(
    kernels: ops.Kernels, config: ModelConfig, dtype: torch.dtype, device: str, only: int | None
) -> list[Tensor]:
    """Each segment's logits, of all in one pass or of one in a pass of its own."""
    model = small.model(3, config, rank=4, adapted=list(PROJECTIONS)).to(device, dtype)
    runner = Runner(model, kernels)
    pool = PagePool(config, 1 << 22, dtype, torch.device(device))
    tables = [pool.take(pages_for(100)) for _ in SEGMENTS]
    wanted = range(len(SEGMENTS)) if only is None else [only]
    batch = Batch([SEGMENTS[index] for index in wanted], [tables[index] for index in wanted])
    return [each.cpu() for each, _ in batch.forward(runner, pool)]


def triton_kernels(device: str, dtype: torch.dtype) -> ops.Kernels:
    return ops.kernels(torch.device(device), dtype, "triton")[0]


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_pass_equals_plain_torch(device: str, dtype: torch.dtype) -> None:
    found = logits(triton_kernels(device, dtype), SCALED, dtype, device, None)
    expected = logits(torch_ops, SCALED, torch.float32, "cpu", None)
    for mine, theirs in zip(found, expected, strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(mine.float(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_segment_has_the_same_bits_in_any_company(device: str, dtype: torch.dtype) -> None:
    kernels = triton_kernels(device, dtype)
    together = logits(kernels, SMALL, dtype, device, None)
    for index, whole in enumerate(together):
        (alone,) = logits(kernels, SMALL, dtype, device, index)
        assert torch.equal(alone, whole), index


@on_each_device
def test_exact_modes_agree(device: str) -> None:
    model = small.model(5, SMALL, rank=4).to(device, torch.bfloat16)
    engine = TokenEngine(model, small.text, small.TEXT_VOCAB, kv_bytes=1 << 24, kernels="triton")
    options: list[Options] = [ArOptions(), LinearSpecOptions(block_length=4), QuadraticSpecOptions(block_length=2)]
    request = DecodeRequest(
        prompt=small.prompt(1, 3),
        options=ArOptions(),
        sampling=Sampling(temperature=1.0, seed=3),
        max_tokens=4,
    )
    found = [engine.decode(replace(request, options=each)).token_ids for each in options]
    engine.close()
    assert len(found[0]) == 4
    assert found[1] == found[0]
    assert found[2] == found[0]


@on_each_device
def test_the_door_says_what_runs(device: str) -> None:
    found, why = ops.kernels(torch.device(device), torch.bfloat16, "triton")
    assert (found.name, found.row_tile, why) == ("triton", 1, "asked for")
    assert ops.kernels(torch.device("cuda"), torch.bfloat16) == (found, "the fastest here")
    assert not hasattr(found, "sample_rows"), "tokens are chosen by triton_head alone"
    with pytest.raises(ops.TritonUnavailable, match="float32 and bfloat16, not for float16"):
        ops.kernels(torch.device(device), torch.float16, "triton")


def test_without_a_device_to_compile_for_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimode.kernels.gpu import triton_ops

    monkeypatch.setattr(triton_ops, "INTERPRETED", False)
    with pytest.raises(ops.TritonUnavailable, match="need a CUDA device, not cpu; TRITON_INTERPRET=1"):
        ops.kernels(torch.device("cpu"), torch.float32, "triton")
    with pytest.raises(RequestError, match="kernels='triton': triton kernels need a CUDA device"):
        TokenEngine(small.model(1), small.text, small.TEXT_VOCAB, kernels="triton")


def test_every_launch_is_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device of the thread, which is another one where a model is on a second card.

    On the meta device; launches are caught.
    """
    inside, launches = list[torch.Tensor](), list[bool]()

    @contextmanager
    def device_of(tensor: Tensor) -> Generator[None]:
        inside.append(tensor)
        yield
        inside.pop()

    def launching(*_: object) -> Callable[..., None]:
        return lambda *_, **__: launches.append(bool(inside) and inside[-1].device.type == "meta")

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(type(vars(triton_norm)["_norm"]), "__getitem__", launching)
    meta = torch.device("meta")
    model = small.model(3, SMALL, rank=4).to(meta, torch.bfloat16)
    model.frequencies = model.frequencies.to(meta)
    runner, pool = Runner(model, cast(ops.Kernels, triton_ops)), PagePool(SMALL, 1 << 20, torch.bfloat16, meta)
    banned = torch.zeros(SMALL.vocab_size, dtype=torch.bool, device=meta)
    sampler = Sampler(Sampling(), SMALL.vocab_size, banned, runner.kernels)
    batch = Batch(SEGMENTS, [pool.take(1) for _ in SEGMENTS])
    logits = batch.logits(runner, pool)
    passed = len(launches)
    triton_ops.begin(logits, [one for one in batch.choices([sampler] * 3, True) if one])
    chosen = len(launches)
    triton_ops.static_sampler(logits).launch(1)
    assert 8 < passed < chosen < len(launches)
    assert all(launches)
