"""Bit masks over the vocabulary: one row of ceil(V / 32) int32 words, bit t of word t // 32 for token t.

Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def allows(mask: Tensor, token: int) -> bool:
    """Returns whether the bit of `token` is set."""
    return bool(int(mask[token // 32]) >> (token % 32) & 1)


def lone(token: int, words: int) -> Tensor:
    """Returns a [words] mask that allows `token` alone."""
    mask = np.zeros(words, dtype=np.uint32)
    mask[token // 32] = np.uint32(1 << token % 32)
    return torch.from_numpy(mask.view(np.int32))


def all_but(tokens: Iterable[int], words: int) -> Tensor:
    """Returns a [words] mask that allows every token except `tokens`."""
    mask = np.full(words, 0xFFFFFFFF, dtype=np.uint32)
    for token in tokens:
        mask[token // 32] &= ~np.uint32(1 << token % 32)
    return torch.from_numpy(mask.view(np.int32))
