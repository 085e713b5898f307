"""How much of a step fits into memory at once: samples of one pass, and clean rows that are kept for later rounds.

Knows sizes. Does not know samples' contents. What is decided is kept with the run, because other shares of a step are
summed in another order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

from trimode.engine.models.config import ModelConfig

from .recipe import Recipe

SHARE: Final = 0.25
"""Share of the free memory that activations may take, and clean rows as much again."""
_WIDE, _INNER = 14, 6
"""Tensors of the hidden and of the inner size that a layer keeps for each slot."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`samples`: of one pass; `recompute`: activations inside of layers are computed again; `kept`: bytes for clean
    rows."""

    samples: int
    recompute: bool
    kept: int


def free_bytes(device: torch.device) -> int:
    """Returns the free memory of a device, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fit(config: ModelConfig, recipe: Recipe, samples: int, free: int) -> Fit:
    """Returns how `samples` visits of one process run in `free` bytes: in as few passes as fit, one sample at least."""
    budget = int(free * SHARE)
    slots = recipe.drafts * max(recipe.blocks)
    each = slots * _bytes_a_slot(config, recipe)
    if each <= budget:
        return Fit(max(1, min(samples, budget // each)), False, budget)
    return Fit(1, True, budget)


def _bytes_a_slot(config: ModelConfig, recipe: Recipe) -> int:
    size = 2 if recipe.dtype == "bfloat16" else 4
    attention = 3 * config.num_attention_heads * (recipe.context + max(recipe.blocks))
    layer = _WIDE * config.hidden_size + _INNER * config.intermediate_size + attention
    return size * (config.num_hidden_layers * layer + 3 * config.vocab_size)
