"""Keys and values of one request's committed tokens, and a small store of finished ones to start others from.

Knows tensors and token ids. Entries are written by causal passes with base weights only, so they serve every mode.
Capacity is a multiple of the attention's key tile and starts zeroed, because whole tiles are read and masked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from trimode.kernels import ops

from .config import ModelConfig


class Cache:
    """keys and values [layers, K, capacity, D]."""

    def __init__(self, config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        capacity = -(-tokens // ops.KEY_TILE) * ops.KEY_TILE
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Puts k and v [T, K, D] at `start` and returns the layer's whole keys and values [K, capacity, D]."""
        end = start + k.shape[0]
        self.keys[layer, :, start:end] = k.transpose(0, 1)
        self.values[layer, :, start:end] = v.transpose(0, 1)
        return self.keys[layer], self.values[layer]

    def copy_prefix(self, other: Cache, length: int) -> None:
        self.keys[:, :, :length] = other.keys[:, :, :length]
        self.values[:, :, :length] = other.values[:, :, :length]


class PrefixStore:
    """Caches of the last finished requests. Reuse changes no token: entries are bitwise what prefill gives."""

    def __init__(self, size: int) -> None:
        self._entries: deque[tuple[tuple[int, ...], Cache]] = deque(maxlen=size)

    def put(self, tokens: Sequence[int], cache: Cache) -> None:
        """`tokens` are those whose entries `cache` holds, from position 0."""
        self._entries.append((tuple(tokens), cache))

    def start(self, prompt: Sequence[int], cache: Cache) -> int:
        """Fills `cache` with the longest stored prefix of `prompt` and returns its length, at most len(prompt) - 1."""
        best, source = 0, None
        for tokens, entry in self._entries:
            length = _common(tokens, prompt[:-1])
            if length > best:
                best, source = length, entry
        if source is not None:
            cache.copy_prefix(source, best)
        return best


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
