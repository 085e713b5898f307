"""Noise keyed by position: the same seed and position give the same Gumbel noise, in any order and for any mode.

Knows seeds, positions and the head epilogue. Does not know modes. Keyed noise makes the exact modes agree at any
temperature: the token at position p is argmax(masked logits / T + g(seed, p, token)), and drafts use the same g
(arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimode.kernels import ops

from ..request import Sampling

_CHUNK_ELEMENTS = 1 << 18
_KEPT_CHUNKS = 4
_BAN = -1e5
"""What a bias of -100 adds. Finite, so that a banned token is still chosen where a grammar allows no other."""

_LEAST_TOP_P = 1e-30
"""Below the probability of the best token of any vocabulary, which alone is left by this top_p and by all smaller ones.
Those may be 0 in fp32, and would leave none."""


class Sampler:
    """Sampling settings of one request, the ids that may never be chosen, and recently computed noise.

    `banned` [V] bool: the mask token and rows of the LM head beyond the tokenizer. `kernels`: whose head epilogue
    chooses.
    """

    settings: Sampling
    vocab_size: int
    banned: Tensor
    kernels: ops.Kernels

    def __init__(self, settings: Sampling, vocab_size: int, banned: Tensor, kernels: ops.Kernels) -> None:
        self.settings, self.vocab_size, self.banned, self.kernels = settings, vocab_size, banned, kernels
        self._span = max(1, min(32, _CHUNK_ELEMENTS // vocab_size))
        self._chunks: dict[int, Tensor] = {}
        self._biases = _biases(settings.logit_bias, banned.device)
        top_k, top_p = min(settings.top_k, vocab_size), max(settings.top_p, _LEAST_TOP_P)
        self._draw = ops.SamplingParams(settings.seed, settings.temperature, top_k, top_p, self.noise)

    @property
    def filters(self) -> bool:
        """Whether top-k or top-p is on; both rank allowed tokens only."""
        return self._draw.filters

    @property
    def biased(self) -> bool:
        """Whether logits are changed before tokens are chosen from them, which a pass alone does not do."""
        return self._biases is not None

    def bias(self, rows: Tensor) -> Tensor:
        """Returns logits [R, V] with the request's biases added, in fp32; `rows` themselves if it has none."""
        if self._biases is None:
            return rows
        biased = rows.to(torch.float32, copy=True)
        biased[:, self._biases[0]] += self._biases[1]
        return biased

    def noise(self, positions: Sequence[int]) -> Tensor | None:
        """Returns [len(positions), V] fp32 Gumbel noise, or None at temperature 0."""
        if self.settings.temperature == 0:
            return None
        rows = [self._chunk(p // self._span)[p % self._span] for p in positions]
        return rows[0][None] if len(rows) == 1 else torch.stack(rows)

    def choice(self, row: int, positions: Sequence[int], masks: Sequence[Tensor | None] = ()) -> ops.Choice:
        """Requests the tokens at `positions` from logits from row `row` on, each under its mask, if there are masks."""
        return ops.Choice(row, positions, self.banned, masks, self._draw)

    def _chunk(self, index: int) -> Tensor:
        if index not in self._chunks:
            while len(self._chunks) >= _KEPT_CHUNKS:
                del self._chunks[min(self._chunks)]
            positions = torch.arange(index * self._span, (index + 1) * self._span)
            noise = self.kernels.gumbel(self.settings.seed, positions, self.vocab_size)
            self._chunks[index] = noise.to(self.banned.device)
        return self._chunks[index]


def _biases(given: Sequence[tuple[int, float]], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Returns ids and what is added to their logits; None without biases."""
    if not given:
        return None
    ids, values = zip(*given, strict=True)
    added = [_BAN if value == -100 else float(value) for value in values]
    return torch.tensor(ids, device=device), torch.tensor(added, dtype=torch.float32, device=device)
