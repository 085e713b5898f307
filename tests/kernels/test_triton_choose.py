"""Tokens of whole decodes on Triton kernels, from the head epilogue alone: those of the reference's `sample_rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import small
import torch
from automaton import random_automaton
from devices import draw, on_each_device
from torch import Tensor

from trimode.engine.forward.graphs import Buckets
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import choose_tokens as triton_choose
from trimode.kernels.gpu import head_epilogue as triton_head
from trimode.kernels.gpu import triton_ops
from trimode.kernels.gpu.choose_tokens import PendingTokens
from trimode.kernels.layout import Choice, SampledTokens, SamplingParams
from trimode.kernels.reference import torch_ops

TINY = replace(small.CONFIG, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
MODES: list[Options] = [
    ArOptions(),
    LinearSpecOptions(block_length=3),
    QuadraticSpecOptions(block_length=2),
    DiffusionOptions(block_length=3, threshold=0.5),
]
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the vocabulary: little arithmetic."""
    monkeypatch.setattr(triton_head, "TILE", 64)


class Checked:
    """Triton kernels whose every choice is also made by `reference.sample_rows`, on the same logits."""

    def __init__(self) -> None:
        self.calls = self.rows = self.masked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(triton_ops, name)

    def forward(self, *arguments: Any) -> tuple[Tensor, list[SampledTokens]]:
        logits, _ = cast(Any, triton_ops.forward)(*arguments[:-1], [])
        return logits, self.choose(logits, arguments[-1])

    def choose(self, logits: Tensor, choices: Sequence[Choice]) -> list[SampledTokens]:
        (found,) = triton_ops.read([self.begin(logits, choices)])
        return found

    def begin(self, logits: Tensor, choices: Sequence[Choice]) -> PendingTokens:
        pending = triton_ops.begin(logits, choices)
        (found,) = triton_ops.read([pending])
        expected = torch_ops.choose(logits.cpu(), [replace(each, banned=each.banned.cpu()) for each in choices])
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.tokens == theirs.tokens
            assert mine.confidence == pytest.approx(theirs.confidence, rel=1e-4, abs=1e-7)
        self.calls += 1
        self.rows += sum(len(choice.positions) for choice in choices)
        self.masked += sum(mask is not None for choice in choices for mask in choice.masks)
        return pending


BUCKETS = Buckets(rows=(1, 2, 3, 4, 6, 8, 11, 14, 18, 23, 30, 40), tiles=(1,), batches=(8,))
SAMPLINGS = [(Sampling(), True), (Sampling(temperature=1.0), True), (Sampling(temperature=1.0, top_p=0.8), False)]
"""Greedy and at 1, under a grammar; filtered, free."""


def requests(samplings: Sequence[tuple[Sampling, bool]]) -> list[DecodeRequest]:
    """Returns requests in each mode with each of `samplings`, which say whether a grammar constrains the output."""
    return [
        DecodeRequest(
            prompt=small.prompt(index, 3),
            options=options,
            sampling=replace(sampling, seed=index),
            max_tokens=4,
            constraint=random_automaton(index + 3, small.VOCAB, USABLE, (small.EOS,)) if constrained else None,
        )
        for index, (options, (sampling, constrained)) in enumerate((mode, one) for mode in MODES for one in samplings)
    ]


def engine(device: str, **options: Any) -> TokenEngine:
    made = small.model(5, TINY, rank=4).to(device, torch.bfloat16)
    return TokenEngine(made, small.text, small.TEXT_VOCAB, kv_bytes=1 << 22, kernels="triton", **options)


@pytest.mark.usefixtures("short_tiles")
@on_each_device
def test_whole_decodes_take_the_tokens_of_the_reference(device: str) -> None:
    made, checked = engine(device, graphs=False), Checked()
    made.runner.kernels = cast(ops.Kernels, checked)
    results = made.decode_many(requests(SAMPLINGS))
    made.close()
    assert all(result.token_ids for result in results)
    assert sum(result.stats.accepted for result in results) > 0
    assert checked.masked > 0
    assert checked.rows > len(results)


@pytest.mark.usefixtures("short_tiles")
@on_each_device
def test_over_fixed_buffers_grammars_and_filters_apply_as_without(device: str) -> None:
    """Masks come and go from pass to pass, in buffers that still have those of the last pass."""
    plain, made = (engine(device, graphs=graphs, buckets=BUCKETS) for graphs in (False, True))
    found, expected = (one.decode_many(requests(SAMPLINGS[1:])[2:6]) for one in (made, plain))
    plain.close()
    made.close()
    assert made.graphs is not None
    assert made.graphs.replayed > 0
    assert [result.token_ids for result in found] == [result.token_ids for result in expected]
    assert [result.rounds for result in found] == [result.rounds for result in expected]


@pytest.mark.usefixtures("short_tiles")
@on_each_device
@pytest.mark.parametrize("graphs", [False, True])
def test_nothing_else_samples_and_cycles_wait_once(device: str, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unconstrained outputs: one copy from the device per pass, and one for a draft and its verification together."""
    made, waits = engine(device, graphs=graphs, buckets=BUCKETS), list[int]()
    read = triton_choose.read

    def counted(pending: Sequence[PendingTokens]) -> list[list[SampledTokens]]:
        buffers = [one for one in pending if len(one.result_buffer)]
        if buffers:
            waits.append(len(buffers))
        return read(pending)

    def never(*_: Any) -> None:
        raise AssertionError("the reference was asked for a token")

    monkeypatch.setattr(triton_choose, "read", counted)
    monkeypatch.setattr(triton_ops, "read", counted)
    monkeypatch.setattr(torch_ops, "sample_rows", never)
    monkeypatch.setattr(torch_ops, "gumbel", never)
    if graphs:
        monkeypatch.setattr(triton_ops, "begin", never)
        monkeypatch.setattr(triton_choose, "begin", never)
    unconstrained = requests([(Sampling(temperature=1.0), False)])
    for request in unconstrained:
        waits.clear()
        before, result = made.scheduler.passes, made.decode(request)
        rounds = [one for one in result.rounds if one.tokens]
        assert sum(waits) == made.scheduler.passes - before
        if request.options.mode == "linear_spec":
            cycles = sum(one.forward_passes == 2 for one in rounds)
            assert waits.count(2) == cycles > 0
            assert len(waits) == len(rounds)
        else:
            assert waits.count(2) == 0
    waits.clear()
    before, together = made.scheduler.passes, made.decode_many(unconstrained)
    assert sum(waits) == made.scheduler.passes - before
    limited = replace(unconstrained[1], max_passes=50)
    waits.clear()
    assert made.decode(limited).token_ids == together[1].token_ids
    assert waits.count(2) == 0
    made.close()


def choices(device: str, banned: Tensor) -> list[Choice]:
    """Of several requests: rows in no order, some with a mask, one that wants none."""
    mask = (draw(2, seed=4) * 2**31).clamp(-(2**31), 2**31 - 1).to(torch.int32)

    def rule(seed: int, temperature: float, top_k: int = 0, top_p: float = 1.0) -> SamplingParams:
        def noise(positions: Sequence[int]) -> Tensor | None:
            return (
                torch_ops.gumbel(seed, torch.tensor(list(positions), dtype=torch.int64), len(banned)).to(device)
                if temperature
                else None
            )

        return SamplingParams(seed, temperature, top_k, top_p, noise)

    return [
        Choice(4, [9, 10], banned, [None, mask], rule(3, 1.0)),
        Choice(0, [2**40], banned, (), rule(2**64 - 1, 0.7, top_k=5)),
        Choice(2, [], banned, (), rule(1, 1.0)),
        Choice(1, [5, 6, 7], banned, [mask, None, mask], rule(4, 0.0)),
    ]


@on_each_device
def test_choices_of_several_requests_are_kept_apart(device: str) -> None:
    logits, banned = draw(6, 50, device=device) * 3, (draw(50, seed=1) > 1.5).to(device)
    asked = choices(device, banned)
    for some in (asked, asked[1:], asked[2:3], []):
        found, expected = triton_ops.choose(logits, some), torch_ops.choose(logits, some)
        assert [sampled.tokens for sampled in found] == [sampled.tokens for sampled in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.confidence == pytest.approx(theirs.confidence, rel=1e-4)


def test_choices_share_what_is_banned() -> None:
    banned = torch.zeros(50, dtype=torch.bool)
    first, *others = choices("cpu", banned)
    with pytest.raises(TensorRefused, match="several `banned`; give them the same tensor"):
        triton_ops.choose(draw(6, 50), [replace(first, banned=banned.clone()), *others])


@on_each_device
def test_fixed_buffers_give_what_is_chosen_anywhere(device: str) -> None:
    """Passes over the same buffers: masks, parameters and banned tokens of the last pass are gone, its tokens stay."""
    logits = draw(6, 50, device=device) * 3
    sampler, pending, expected = triton_ops.static_sampler(logits), list[PendingTokens](), list[list[SampledTokens]]()
    for seed in range(4):
        banned = (draw(50, seed=seed // 2) > 1.5).to(device)
        in_order = sorted(choices(device, banned), key=lambda choice: (choice.row, len(choice.positions)))
        first = 0
        for index, choice in enumerate(in_order):
            in_order[index] = replace(choice, row=first)
            first += len(choice.positions)
        for some, rows in ((in_order, 6), (in_order[:1], 4), (in_order[:1], 1)):
            logits.copy_(draw(6, 50, seed=seed + rows, device=device) * 3)
            sampler.load(some, rows)
            sampler.launch(rows)
            pending.append(sampler.result(some, rows))
            expected.append(torch_ops.choose(logits, some))
    for one, found, theirs in zip(pending, triton_ops.read(pending), expected, strict=True):
        assert one.tokens.tolist() == [token for sampled in theirs for token in sampled.tokens]
        for mine, other in zip(found, theirs, strict=True):
            assert mine.tokens == other.tokens
            assert mine.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_fixed_buffers_refuse_rows_out_of_order() -> None:
    sampler = triton_ops.static_sampler(draw(6, 50))
    with pytest.raises(TensorRefused, match="leave rows out, or have another order than these; ask `begin`"):
        sampler.load(choices("cpu", torch.zeros(50, dtype=torch.bool)), 6)
