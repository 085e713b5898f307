"""Position-keyed noise: the same seed and position give the same Gumbel draws, whoever asks and in whatever order.

This is what makes the exact modes agree at any temperature: the token at position p is
argmax(masked logits / T + g(seed, p, token)), and drafts use the same g (arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trimode.kernels import ops

from .request import Sampling

_CHUNK_ELEMENTS = 1 << 18
_KEPT_CHUNKS = 4


Allowed = Callable[[], Tensor | None]
"""Gives a grammar mask [ceil(V / 32)] int32, None where everything is allowed."""
Pick = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, float, int, float], tuple[Tensor, Tensor]]


class Sampler:
    """Settings of one request, the ids that may never be chosen, and recently drawn noise.

    `banned` [V] bool: the mask token and rows of the head beyond the tokenizer. `pick`: the kernels' head epilogue.
    """

    def __init__(self, settings: Sampling, vocab_size: int, banned: Tensor, pick: Pick) -> None:
        self.settings, self.vocab_size, self.banned, self.pick = settings, vocab_size, banned, pick
        self._span = max(1, min(32, _CHUNK_ELEMENTS // vocab_size))
        self._chunks: dict[int, Tensor] = {}

    def noise(self, positions: Sequence[int]) -> Tensor | None:
        """[len(positions), V] fp32 Gumbel noise, or None at temperature 0."""
        if self.settings.temperature == 0:
            return None
        return torch.stack([self._chunk(p // self._span)[p % self._span] for p in positions])

    def choice(self, row: int, position: int, allowed: Allowed) -> ops.Choice | None:
        """What the pass needs to choose the token at `position` itself; None where filters leave that to `pick`."""
        settings = self.settings
        if settings.temperature == 0:
            return ops.Choice(row, self.banned, allowed, None, 0.0)
        if settings.top_k or settings.top_p < 1:
            return None
        noise = self._chunk(position // self._span)[position % self._span]
        return ops.Choice(row, self.banned, allowed, noise, settings.temperature)

    def _chunk(self, index: int) -> Tensor:
        if index not in self._chunks:
            while len(self._chunks) >= _KEPT_CHUNKS:
                del self._chunks[min(self._chunks)]
            positions = torch.arange(index * self._span, (index + 1) * self._span)
            self._chunks[index] = ops.gumbel(self.settings.seed, positions, self.vocab_size).to(self.banned.device)
        return self._chunks[index]
