"""The adapter's matrices while they learn: fp32 parameters of a model whose base stays as it is.

Knows the model's modules. Does not know steps or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trimode.engine.models.model import LowRank, Transformer

from .errors import TrainingError
from .forward import Terms
from .recipe import Recipe


def add_trainable(model: Transformer, recipe: Recipe) -> None:
    """Adds a fresh adapter, whose output is zero: A is drawn by the recipe's seed, B is nothing."""
    model.requires_grad_(False)
    model.add_adapter(recipe.rank, recipe.scale, recipe.projections)
    generator = torch.Generator().manual_seed(recipe.seed)
    for term in _terms(model):
        size = term.lora_A.weight.shape
        drawn = torch.randn(size, generator=generator) / math.sqrt(size[1])
        _replace(term, drawn, torch.zeros(term.lora_B.weight.shape), model.frequencies.device)


def begin_with(model: Transformer, recipe: Recipe, given: Sequence[Mapping[str, LowRank]]) -> None:
    """Adds an adapter whose output is that of the `given` terms of each layer.

    Where the recipe has more ranks or projections, the further ones begin as those of a fresh adapter do. A scale is
    spread over A and B. Raises TrainingError where the recipe has less.
    """
    add_trainable(model, recipe)
    for at, layer in enumerate(given):
        mine = model.adapter_terms(at)
        for name, term in layer.items():
            rank = term.lora_A.out_features
            if name not in mine or rank > recipe.rank:
                raise TrainingError(
                    f"the adapter to begin with has rank {rank} on {name}, and this run has rank {recipe.rank} on "
                    f"{', '.join(recipe.projections)}; give --rank {max(rank, recipe.rank)}, or begin without it"
                )
            _fill(mine[name], term)


@torch.no_grad()
def _fill(mine: LowRank, given: LowRank) -> None:
    rank, share = given.lora_A.out_features, math.sqrt(given.scale / mine.scale)
    mine.lora_A.weight[:rank] = given.lora_A.weight.float() * share
    mine.lora_B.weight[:, :rank] = given.lora_B.weight.float() * share


def parameters(model: Transformer) -> list[nn.Parameter]:
    """Returns the adapter's matrices in a fixed order, A before B."""
    return [one for term in _terms(model) for one in (term.lora_A.weight, term.lora_B.weight)]  # type: ignore[misc]


def terms_of(model: Transformer, dtype: torch.dtype) -> list[Terms]:
    """Returns the matrices of each layer in the dtype of the pass, through which gradients flow back."""
    return [
        {name: (_cast(t.lora_A.weight, dtype), _cast(t.lora_B.weight, dtype), t.scale) for name, t in layer.items()}
        for layer in (model.adapter_terms(at) for at in range(model.config.num_hidden_layers))
    ]


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype)


def _terms(model: Transformer) -> Sequence[LowRank]:
    return [term for at in range(model.config.num_hidden_layers) for term in model.adapter_terms(at).values()]


def _replace(term: LowRank, a: Tensor, b: Tensor, device: torch.device) -> None:
    for linear, weight in ((term.lora_A, a), (term.lora_B, b)):
        linear.weight = nn.Parameter(weight.to(device).clone())
