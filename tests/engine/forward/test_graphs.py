"""Passes over static buffers: the same bits as passes of just their rows, whatever the buffers held before.

On a CPU the work is done again over the same buffers; with a CUDA device (`pytest -m gpu`) the tests of Triton kernels
capture and replay graphs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import small
import torch
from devices import on_each_device
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import mixed_requests
from torch import Tensor

from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.errors import DeviceMemoryExceeded, RequestError
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.graphs import Bucket, Buckets, DeviceTokens, Eager, Graphs, capturing, smallest
from trimode.engine.forward.memory import planned
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool
from trimode.engine.models.config import ModelConfig
from trimode.engine.options import ArOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.gpu import triton_ops

CPU = torch.device("cpu")
TRITON = cast(ops.Kernels, triton_ops)
ODD = Buckets(rows=(1, 3, 8, 21, 70), tiles=(1, 3), batches=(2, 9))
TINY = replace(small.CONFIG, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
each_kernel = pytest.mark.parametrize("kernels", ["torch", "native"])


def poisoned(graphs: Graphs | None) -> Graphs:
    """Before each pass its buffers are overwritten with what no pass may read, nor a mode that still has logits."""
    assert graphs is not None
    forward = graphs.forward

    def poisoning(bucket: Bucket, numbers: Tensor, reads: int, device_tokens: DeviceTokens | None = None) -> Tensor:
        graphs.buffers.numbers.fill_(2**40 + 7)
        graphs.buffers.logits.fill_(float("nan"))
        return forward(bucket, numbers, reads, device_tokens)

    graphs.forward = poisoning  # type: ignore[method-assign]
    return graphs


def engine(config: ModelConfig = small.CONFIG, device: str = "cpu", **options: Any) -> TokenEngine:
    made = small.model(3, config, shared=2, rank=2)
    if device == "cuda" or options.get("kernels") == "triton":
        made = made.to(device, torch.bfloat16)
    options.setdefault("kv_bytes", 1 << 24)
    return TokenEngine(made, small.text, small.TEXT_VOCAB, **options)


def counts(result: DecodeResult) -> tuple[Any, ...]:
    """All that a result says but its times and what ran its passes."""
    stats = replace(result.stats, seconds=0, prefill_seconds=0, graph_passes=0, mode_runs=())
    return result.token_ids, result.text, result.finish_reason, result.rounds, stats


@each_kernel
def test_every_mode_decodes_as_without(kernels: str) -> None:
    """Requests of all modes side by side; those of 70 tokens and more fit no bucket at first."""
    plain = engine(kernels=kernels)
    expected = plain.decode_many(mixed_requests(3, 24))
    plain.close()
    made = engine(kernels=kernels, graphs=True, buckets=ODD)
    graphs = poisoned(made.graphs)
    found = made.decode_many(mixed_requests(3, 24))
    alone = [made.decode(request) for request in mixed_requests(3, 6)]
    made.close()
    assert [result.token_ids for result in found] == [result.token_ids for result in expected]
    assert [result.rounds for result in found] == [result.rounds for result in expected]
    assert [result.token_ids for result in alone] == [result.token_ids for result in expected[:6]]
    assert graphs.replayed > 20
    assert graphs.unfit["rows"] > 0
    assert graphs.replayed + graphs.unfit.total() == made.scheduler.passes
    assert all(result.stats.graph_passes > 0 for result in alone)
    assert all(result.stats.graph_passes == 0 for result in expected)


@each_kernel
def test_one_at_a_time_everything_is_the_same(kernels: str) -> None:
    plain, made = engine(kernels=kernels), engine(kernels=kernels, graphs=True, buckets=ODD)
    poisoned(made.graphs)
    for request, again in zip(mixed_requests(5, 9), mixed_requests(5, 9), strict=True):
        assert counts(made.decode(request)) == counts(plain.decode(again))
    plain.close()
    made.close()


def ragged(seed: int, requests: int) -> list[Segment]:
    """Trunks and branches of odd sizes behind prefixes of odd lengths, some with the adapter."""
    draw = torch.Generator().manual_seed(seed)

    def upto(most: int) -> int:
        return int(torch.randint(0, most + 1, (1,), generator=draw))

    made = []
    for index in range(requests):
        trunk, start = 1 + upto(4), upto(3) * 37
        branches = tuple(
            Branch(
                tokens=small.prompt(seed + at, 1 + upto(3)),
                read=1,
                after=upto(trunk),
                causal=bool(upto(1)),
                adapter=bool(seed % 2),
            )
            for at in range(upto(2))
        )
        segment = Segment(start=start, trunk=small.prompt(index, trunk), branches=branches, read=upto(trunk))
        made.append(segment if segment.read or branches else replace(segment, read=1))
    return made


@each_kernel
def test_logits_and_pages_have_the_same_bits(kernels: str) -> None:
    made = small.model(3, shared=2, rank=2)
    runner = Runner(made, *ops.kernels(CPU, torch.float32, kernels))
    pools = [PagePool(small.CONFIG, 1 << 22, torch.float32, CPU) for _ in range(2)]
    for pool in pools:
        draw = torch.Generator().manual_seed(1)
        pool.keys.normal_(generator=draw)
        pool.values.normal_(generator=draw)
    graphs = poisoned(Graphs(runner, pools[1], ODD, Eager()))
    graphs.warm()
    for seed in range(12):
        segments = ragged(seed, 1 + seed % 7)
        tables = [list(range(3 * index, 3 * index + 3)) for index in range(len(segments))]
        expected = Batch(segments, tables).forward(runner, pools[0])
        found = Batch(segments, tables).forward(runner, pools[1], graphs=graphs)
        for (mine, _), (theirs, _) in zip(found, expected, strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(pools[0].keys, pools[1].keys)
        assert torch.equal(pools[0].values, pools[1].values)
    assert graphs.replayed == 12


@on_each_device
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_exact_modes_agree_on_triton_kernels(device: str, temperature: float) -> None:
    options: list[Options] = [ArOptions(), LinearSpecOptions(block_length=3), QuadraticSpecOptions(block_length=2)]
    plain = engine(TINY, device, kernels="triton", graphs=False)
    buckets = Buckets(rows=(1, 4, 16), tiles=(1,), batches=(3,))
    made = engine(TINY, device, kernels="triton", graphs=True, buckets=buckets)
    graphs = poisoned(made.graphs)
    assert graphs.counts == [1, 4, 16]
    assert graphs.captured == len(graphs.buckets) + len(graphs.counts)
    assert made.memory.buffers == graphs.buffers.nbytes > graphs.buffers.numbers.nbytes + graphs.buffers.logits.nbytes
    asked = [
        DecodeRequest(
            prompt=small.prompt(1, 3), options=each, sampling=Sampling(temperature=temperature, seed=3), max_tokens=4
        )
        for each in options
    ]
    expected = plain.decode(asked[0]).token_ids
    found = [made.decode(request).token_ids for request in asked]
    together = [result.token_ids for result in made.decode_many(asked)]
    plain.close()
    made.close()
    assert found == [expected] * 3
    assert together == found
    assert graphs.replayed > 6
    assert graphs.unfit.total() == 0
    assert graphs.name == ("CUDA graphs" if device == "cuda" else "static buffers")


@on_each_device
def test_drafts_follow_the_adapter_as_it_changes(device: str) -> None:
    """The adapter is read where it lies when a pass is replayed, by marked rows alone."""
    made = engine(TINY, device, kernels="triton", graphs=True, buckets=Buckets(rows=(8,), tiles=(1,), batches=(1,)))
    graphs, tokens = poisoned(made.graphs), small.prompt(2, 4)
    table = made.pool.take(1)

    def logits(adapter: bool) -> Tensor:
        branch = Branch(tokens=tokens, read=4, adapter=adapter)
        segment = Segment(start=0, trunk=(1,), branches=(branch,), read=1)
        ((rows, _),) = Batch([segment], [table]).forward(made.runner, made.pool, graphs=graphs)
        return rows

    drafts, plain = logits(True).clone(), logits(False).clone()
    for block in made.runner.stack.blocks:
        assert block.adapter is not None
        block.adapter.out[0].high.mul_(-3)
    changed, still = logits(True).clone(), logits(False)
    made.close()
    assert graphs.replayed == 4
    assert torch.equal(plain, still)
    assert torch.equal(drafts[0], plain[0]), "the trunk takes no adapter"
    assert torch.equal(changed[0], plain[0])
    assert (changed[1:] != drafts[1:]).any(dim=1).all()


def test_all_buckets_are_captured_before_the_first_call() -> None:
    observed: list[tuple[int, int]] = []
    made = engine(graphs=True, buckets=ODD, progress=lambda done, all_: observed.append((done, all_)))
    assert made.graphs is not None
    assert made.graphs.captured == len(made.graphs.buckets)
    assert observed == [(at + 1, len(made.graphs.buckets)) for at in range(len(observed))]
    assert len(observed) == len(made.graphs.buckets)
    made.decode(DecodeRequest(prompt=(1, 2), max_tokens=5))
    assert made.graphs.captured == len(made.graphs.buckets)
    made.close()


def test_a_pass_that_fits_no_bucket_is_counted_by_what_was_too_large() -> None:
    made = engine(graphs=True, buckets=Buckets(rows=(2,), tiles=(1,), batches=(2,)), kernels="native")
    assert made.graphs is not None
    result = made.decode(DecodeRequest(prompt=small.prompt(1, 62), max_tokens=5))
    assert made.graphs.unfit["rows"] == result.stats.prefill_passes == 1
    assert made.graphs.unfit["tiles"] == result.stats.forward_passes - result.stats.graph_passes > 0
    made.decode_many([DecodeRequest(prompt=(1,), max_tokens=9)] * 5)
    assert made.graphs.unfit["rows"] > 1
    other = PagePool(small.CONFIG, 1 << 20, torch.float32, CPU)
    Batch([Segment(start=0, trunk=(1,), read=1)], [other.take(1)]).forward(made.runner, other, graphs=made.graphs)
    assert made.graphs.unfit["pool"] == 1
    Batch([Segment(start=0, trunk=(1,))], [[0]]).forward(made.runner, made.pool, graphs=made.graphs)
    assert made.graphs.unfit["unread"] == 1
    made.close()


@given(
    size=st.builds(
        Bucket, rows=st.integers(1, 80), tiles=st.integers(1, 4), batch=st.integers(1, 12), adapted=st.booleans()
    ),
    row_tile=st.sampled_from([1, 4]),
    longest=st.integers(1, 5),
)
@settings(deadline=None, derandomize=True)
def test_a_pass_runs_in_the_smallest_bucket_that_holds_it(size: Bucket, row_tile: int, longest: int) -> None:
    listed = ODD.listed(row_tile, longest, adapter=True)
    assert len(set(listed)) == len(listed)
    assert all(bucket.rows % row_tile == 0 and bucket.tiles <= longest for bucket in listed)
    assert all(first.rows <= second.rows for first, second in pairwise(listed))
    assert not any(bucket.adapted for bucket in ODD.listed(row_tile, longest, adapter=False))
    found = smallest(listed, size)
    holding = [
        bucket
        for bucket in listed
        if bucket.adapted == size.adapted
        and bucket.rows >= size.rows
        and bucket.tiles >= size.tiles
        and bucket.batch >= size.batch
    ]
    if isinstance(found, Bucket):
        assert found in holding
        assert found.rows == min(bucket.rows for bucket in holding)
    else:
        assert not holding
        assert found in ("rows", "tiles", "batch")


def test_off_by_default_on_a_cpu_and_on_for_cuda() -> None:
    made = engine()
    assert made.graphs is None
    made.close()
    cuda, reference = torch.device("cuda"), ops.kernels(CPU, torch.float32, "torch")[0]
    assert capturing(reference, cuda, None) is None
    assert capturing(TRITON, cuda, False) is None
    with pytest.raises(RequestError, match="graphs=True: torch kernels wait for the device within a pass"):
        capturing(reference, cuda, True)


def test_memory_is_planned_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(graphs=True, buckets=ODD, kernels="torch")
    plan, graphs = made.memory, made.graphs
    assert graphs is not None
    assert plan.buffers == graphs.buffers.numbers.nbytes + graphs.buffers.logits.nbytes
    assert plan.pages == made.pool.keys.nbytes + made.pool.values.nbytes
    assert plan.graphs > max(bucket.rows for bucket in graphs.buckets) * small.VOCAB * 4
    made.close()
    need = sum(plan.parts.values())
    monkeypatch.setattr("trimode.engine.forward.memory.free_bytes", lambda _: need - plan.weights)
    engine(graphs=True, buckets=ODD, kernels="torch").close()
    monkeypatch.setattr("trimode.engine.forward.memory.free_bytes", lambda _: need - plan.weights - 1)
    with pytest.raises(DeviceMemoryExceeded, match="1 too few; lower kv_bytes, load with quantize=") as caught:
        engine(graphs=True, buckets=ODD, kernels="torch")
    assert (caught.value.need, caught.value.have) == (need, need - 1)
    assert caught.value.parts == plan.parts
    engine(kernels="torch").close()


def test_the_plan_counts_weights_once_and_what_kernels_keep_besides() -> None:
    model = small.model(1, rank=2)
    runner = Runner(model, *ops.kernels(CPU, torch.float32, "torch"))
    plan = planned(model, runner, 1 << 20, None)
    scaled = sum(block.adapter.out[0].high.nbytes for block in runner.stack.blocks if block.adapter is not None)
    assert scaled > 0
    assert plan.weights == scaled + sum(weight.nbytes for weight in model.parameters())
    assert (plan.buffers, plan.graphs) == (0, 0)
    assert plan.pages <= 1 << 20
