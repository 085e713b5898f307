"""Bit masks over the vocabulary: one row of ceil(V / 32) int32 words, bit t of word t // 32 for token t.

Knows token ids only, and no torch, so that schemas are checked without it: masks of a grammar are numpy arrays, those
of the engine tensors over the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Mask = np.ndarray[Any, np.dtype[np.int32]]


def allows(mask: Tensor | Mask, token: int) -> bool:
    """Returns whether the bit of `token` is set."""
    return bool(int(mask[token // 32]) >> (token % 32) & 1)


def lone(token: int, words: int) -> Mask:
    """Returns a [words] mask that allows `token` alone."""
    mask = np.zeros(words, dtype=np.uint32)
    mask[token // 32] = np.uint32(1 << token % 32)
    return mask.view(np.int32)


def all_but(tokens: Iterable[int], words: int) -> Mask:
    """Returns a [words] mask that allows every token except `tokens`."""
    mask = np.full(words, 0xFFFFFFFF, dtype=np.uint32)
    for token in tokens:
        mask[token // 32] &= ~np.uint32(1 << token % 32)
    return mask.view(np.int32)
