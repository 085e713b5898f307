"""A draft and its verification queued in sequence: the rounds are those of two passes, and counts say two.

Kernels are the torch ops, treated as if their results had to be waited for; a device runs the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import small
import torch
from mixed import mixed_requests
from torch import Tensor

from trimode.engine.forward.graphs import Buckets
from trimode.engine.options import LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.layout import Choice, SampledTokens
from trimode.kernels.reference import torch_ops


@dataclass
class Chosen:
    tokens: Tensor
    sampled: list[SampledTokens]


class QueuedKernels:
    """The torch_ops, with tokens that are read later. `reads`: how many passes each wait has read."""

    queued = True

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch_ops, name)

    def begin(self, logits: Tensor, choices: Sequence[Choice]) -> Chosen:
        sampled = torch_ops.choose(logits, choices)
        return Chosen(torch.tensor([token for each in sampled for token in each.tokens], dtype=torch.int64), sampled)

    def read(self, pending: Sequence[Chosen]) -> list[list[SampledTokens]]:
        self.reads.append(len(pending))
        return [one.sampled for one in pending]


def engine(queued: bool, **options: Any) -> tuple[TokenEngine, QueuedKernels]:
    made = small.model(3, shared=2, rank=2)
    found = TokenEngine(made, small.text, small.TEXT_VOCAB, kv_bytes=1 << 24, kernels="torch", **options)
    kernels = QueuedKernels()
    if queued:
        found.runner.kernels = cast(ops.Kernels, kernels)
    return found, kernels


def linear(seed: int, exact_first: bool = False) -> DecodeRequest:
    """Blocks, budgets and temperatures of every size; some with a stop string, one token only, or a long prompt."""
    return DecodeRequest(
        prompt=small.prompt(seed, 1 + 17 * seed % 90),
        options=LinearSpecOptions(block_length=2 + 5 * seed % 11, exact_first=exact_first),
        sampling=Sampling(temperature=seed % 3 / 2, seed=seed, top_p=0.9 if seed % 5 == 4 else 1.0),
        max_tokens=1 + 7 * seed % 40,
        stop=("ab",) if seed % 4 == 3 else (),
    )


@pytest.mark.parametrize("exact_first", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_rounds_are_those_of_two_passes(graphs: bool, exact_first: bool) -> None:
    (plain, _), (made, kernels) = engine(False), engine(True, graphs=graphs, buckets=Buckets(rows=(4, 16, 48)))
    cycles = 0
    for seed in range(24):
        expected, found = (one.decode(linear(seed, exact_first)) for one in (plain, made))
        assert found.rounds == expected.rounds
        assert found.text == expected.text
        assert found.stats.forward_passes == expected.stats.forward_passes
        assert found.stats.prefill_passes == expected.stats.prefill_passes
        assert found.stats.query_tokens >= expected.stats.query_tokens, "nobody saw where the draft ended"
        assert found.stats.graph_passes >= (found.stats.forward_passes if graphs and not exact_first else 0)
        assert graphs or not found.stats.graph_passes
        cycles += sum(one.forward_passes == 2 or (exact_first and one.drafted > 0) for one in found.rounds)
    # A chained verification of a text that has ended is queued, and no cycle.
    assert kernels.reads.count(2) >= cycles > 20
    assert exact_first or kernels.reads.count(2) == cycles
    plain.close()
    made.close()


def test_together_they_are_what_they_are_alone() -> None:
    (plain, _), (made, kernels) = engine(False), engine(True)
    asked = [linear(seed, exact_first=seed % 2 == 0) for seed in range(16)]
    assert [one.token_ids for one in made.decode_many(asked)] == [plain.decode(one).token_ids for one in asked]
    assert kernels.reads.count(2) > 0
    plain.close()
    made.close()


def test_in_mixed_company_and_under_grammars_nothing_changes() -> None:
    (plain, _), (made, _) = engine(False), engine(True)
    found, expected = (one.decode_many(mixed_requests(4, 18)) for one in (made, plain))
    assert [one.rounds for one in found] == [one.rounds for one in expected]
    plain.close()
    made.close()


@pytest.mark.parametrize(
    "options", [{"max_passes": 50}, {"max_seconds": 60.0}, {"options": QuadraticSpecOptions(block_length=3)}]
)
def test_passes_that_are_limited_or_need_a_look_come_one_at_a_time(options: dict[str, Any]) -> None:
    made, kernels = engine(True)
    assert made.decode(replace(linear(2), **options)).token_ids
    assert 2 not in kernels.reads
    made.close()


def test_exact_modes_agree() -> None:
    made, _ = engine(True)
    modes: list[Options] = [
        LinearSpecOptions(block_length=6),
        LinearSpecOptions(block_length=6, exact_first=True),
        QuadraticSpecOptions(block_length=4),
    ]
    for seed in range(6):
        found = [made.decode(replace(linear(seed), options=options)).token_ids for options in modes]
        assert found[0] == found[1] == found[2]
    made.close()


@pytest.mark.parametrize("graphs", [False, True])
def test_biased_requests_wait_for_their_drafts_and_keep_their_tokens(graphs: bool) -> None:
    """A pass samples from raw logits, so it does not choose where logits are biased; nor for who shares that pass."""
    (plain, _), (made, _) = engine(False), engine(True, graphs=graphs, buckets=Buckets(rows=(4, 16, 48)))
    bias = ((7, 3.0), (11, -100.0))
    requests = [
        replace(one, sampling=replace(one.sampling, logit_bias=bias)) if at % 2 else one
        for at, one in enumerate(map(linear, range(12)))
    ]
    expected = [plain.decode(request).token_ids for request in requests]
    assert [made.decode(request).token_ids for request in requests] == expected
    assert [found.token_ids for found in made.decode_many(requests)] == expected
    assert not any(11 in ids for ids in expected[1::2])
