"""Draft adapters on any projection: their terms reach marked rows alone, in every implementation and any company."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive
from torch import Tensor

from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.models.model import Transformer
from trimode.engine.request import Sampling
from trimode.engine.token_engine import TokenEngine

TRUNK, OWN = 4, 4
"""Rows of the trunk, and of each branch after it."""


def adapted_model(seed: int, layers: Sequence[Mapping[str, int]]) -> Transformer:
    """A random model with an adapter of the given ranks, layer by layer."""
    made = small.model(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made.add_adapters([{name: (rank, 2.0) for name, rank in own.items()} for own in layers])
        for name, weight in made.named_parameters():
            if name.startswith("adapter."):
                weight.requires_grad_(False).normal_(0, 0.3)
    return made


def segment(seed: int, draft_first: bool, adapter: bool = True) -> Segment:
    """A trunk with two equal branches after it, of which one takes the adapter."""
    tokens = small.prompt(seed, TRUNK + OWN)
    draft, plain = (Branch(tokens=tokens[TRUNK:], read=OWN, after=TRUNK, adapter=marked) for marked in (adapter, False))
    branches = (draft, plain) if draft_first else (plain, draft)
    return Segment(start=0, trunk=tokens[:TRUNK], read=TRUNK, branches=branches)


def twin(model: Transformer, asked: Segment) -> Tensor:
    """Logits of the segment's rows by one pass of the model itself over all of them."""
    count = TRUNK + 2 * OWN
    seen, adapted = torch.zeros(count, count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    seen[:, :TRUNK] = True
    seen[:TRUNK, :TRUNK] = torch.ones(TRUNK, TRUNK).tril().bool()
    for at, branch in enumerate(asked.branches):
        rows = slice(TRUNK + at * OWN, TRUNK + (at + 1) * OWN)
        seen[rows, rows], adapted[rows] = True, branch.adapter
    tokens = [*asked.trunk, *(token for branch in asked.branches for token in branch.tokens)]
    positions = [*range(TRUNK + OWN), *range(TRUNK, TRUNK + OWN)]
    return Naive(model, (), Sampling(), 1, small.TEXT_VOCAB, ()).pass_over(tokens, positions, seen, adapted)


def rows(engine: TokenEngine, asked: Segment) -> Tensor:
    """Logits of the segment's read rows."""
    pages = engine.pool.take(1)
    with torch.inference_mode():
        ((found, _),) = Batch([asked], [pages]).forward(engine.runner, engine.pool)
    engine.pool.drop(pages)
    return found.clone()


def engine(model: Transformer, kernels: str) -> TokenEngine:
    return TokenEngine(model, small.text, small.TEXT_VOCAB, kernels=kernels, kv_bytes=1 << 20)


ranks_of_a_layer = st.dictionaries(st.sampled_from(list(PROJECTIONS)), st.integers(1, 5))


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    layers=st.lists(ranks_of_a_layer, min_size=2, max_size=2).filter(any),
    seed=st.integers(0, 99),
    draft_first=st.booleans(),
)
def test_terms_reach_marked_rows_alone(layers: list[dict[str, int]], seed: int, draft_first: bool) -> None:
    """Marked rows are the twin's; others have the bits that they have without an adapter; a draft alone has its own."""
    model, asked = adapted_model(seed, layers), segment(seed, draft_first)
    draft = TRUNK + (0 if draft_first else OWN)
    expected = twin(model, asked)
    for kernels in ("native", "torch"):
        with engine(model, kernels) as made, engine(small.model(seed), kernels) as bare:
            found, plain = rows(made, asked), rows(bare, segment(seed, draft_first, adapter=False))
            alone = rows(made, replace(asked, branches=(asked.branches[0 if draft_first else 1],)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
        others = [row for row in range(len(found)) if not draft <= row < draft + OWN]
        assert torch.equal(found[others].view(torch.int32), plain[others].view(torch.int32))
        assert torch.equal(alone[TRUNK:], found[draft : draft + OWN])
