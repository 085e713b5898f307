"""An adapter that a run begins with: its output stays, whatever further ranks and projections the run has."""

from __future__ import annotations

import pytest
import torch

from trimode.engine.models.adapter_weights import load_adapter
from trimode.engine.models.checkpoint import locate
from trimode.engine.models.model import LowRank, Transformer
from trimode.integrations.training.errors import TrainingError
from trimode.integrations.training.recipe import Recipe
from trimode.integrations.training.trainable import add_trainable, begin_with, parameters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Transformer:
    return locate(None).load(torch.float32, CPU)[0]


def recipe(rank: int, *projections: str) -> Recipe:
    return Recipe(noise=(5, 5), rank=rank, projections=projections or Recipe(noise=(5, 5)).projections)


def product(term: LowRank) -> torch.Tensor:
    return term.scale * term.lora_B.weight.detach() @ term.lora_A.weight.detach()


def given(model: Transformer) -> list[dict[str, LowRank]]:
    return [dict(model.adapter_terms(at)) for at in range(model.config.num_hidden_layers)]


def small(model: Transformer) -> list[dict[str, LowRank]]:
    """Terms of rank 3 on one projection, with a scale of their own."""
    torch.manual_seed(1)
    model.add_adapter(3, 4.0, ("o_proj",))
    for weight in parameters(model):
        torch.nn.init.normal_(weight)
    return given(model)


def test_more_ranks_and_projections_leave_the_output(model: Transformer) -> None:
    terms = small(model)
    begin_with(model, recipe(8), terms)
    for before, after in zip(terms, given(model), strict=True):
        assert len(after) == 7
        for name, term in after.items():
            assert term.lora_A.out_features == 8
            assert term.lora_A.weight.abs().min() > 0, "what is not given can learn"
            if name == "o_proj":
                torch.testing.assert_close(product(term), product(before[name]))
            else:
                assert not product(term).any()


def test_the_same_ranks_are_taken_bit_for_bit(model: Transformer) -> None:
    own = locate(None).directory / "linear_spec_lora"
    load_adapter(model, own, torch.float32, CPU)
    first = given(model)
    rank, names = first[0]["o_proj"].lora_A.out_features, tuple(first[0])
    begin_with(model, recipe(rank, *names), first)
    again = given(model)
    begin_with(model, recipe(rank, *names), again)
    assert all(
        torch.equal(a.weight, b.weight)
        for before, after in zip(again, given(model), strict=True)
        for name in names
        for a, b in ((before[name].lora_A, after[name].lora_A), (before[name].lora_B, after[name].lora_B))
    )


@pytest.mark.parametrize("less", [recipe(2), recipe(8, "q_proj")], ids=["ranks", "projections"])
def test_less_is_refused(model: Transformer, less: Recipe) -> None:
    with pytest.raises(TrainingError, match=r"has rank 3 on o_proj, and this run has rank .*; give --rank"):
        begin_with(model, less, small(model))


def test_a_fresh_adapter_does_nothing(model: Transformer) -> None:
    add_trainable(model, recipe(4))
    assert not any(product(term).any() for layer in given(model) for term in layer.values())
