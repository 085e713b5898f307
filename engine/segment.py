"""What a mode asks of the model and what it gets: `Segment` out, `Logits` back.

Knows token ids, positions and rows of logits. Does not know the model, the cache or the other requests of the pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trimode.kernels import ops

from .sampling import Sampler

Attention = Literal["causal", "block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens at positions start, start + 1, ... over the first `start` cache entries; entries after those are dropped.

    causal: each row sees the rows up to its own, and with base weights its keys and values stay in the cache.
    block: the rows see each other, both ways; nothing is kept. `read`: trailing rows whose logits are wanted.
    """

    tokens: tuple[int, ...]
    start: int
    attention: Attention = "causal"
    adapter: bool = False
    read: int = 1
    prefill: bool = False

    @property
    def first(self) -> int:
        """The position that the first read row predicts: its own in a block, the next one in a causal pass."""
        row = self.start + len(self.tokens) - self.read
        return row if self.attention == "block" else row + 1


@dataclass(frozen=True, slots=True)
class Picks:
    """A token a row, and its probability at temperature 1 among the tokens that the row allows."""

    tokens: list[int]
    confidence: list[float]


class Logits:
    """The read rows of one segment, [R, V]; tokens are chosen here, by the one rule that all modes share."""

    def __init__(self, rows: Tensor, first: int, sampler: Sampler) -> None:
        self.rows, self.first, self.sampler = rows, first, sampler

    def pick(self, allowed: Tensor | None = None, rows: Sequence[int] | None = None) -> Picks:
        """The chosen token of each row (all, or `rows`); `allowed` [rows, W] holds their grammar masks."""
        at = range(self.rows.shape[0]) if rows is None else rows
        logits = self.rows if rows is None else self.rows[list(rows)]
        settings = self.sampler.settings
        tokens, confidence = ops.pick(
            logits,
            self.sampler.banned,
            None if allowed is None else allowed.to(logits.device),
            self.sampler.noise([self.first + row for row in at]),
            settings.temperature,
            settings.top_k,
            settings.top_p,
        )
        return Picks(tokens.tolist(), confidence.tolist())

    def best(self, allowed: Tensor | None, row: int = -1) -> int:
        """The chosen token of one row under one mask [W]."""
        row %= self.rows.shape[0]
        return self.pick(None if allowed is None else allowed[None], [row]).tokens[0]


Passes = Generator[Segment, Logits, None]
"""A mode: it yields the passes it needs and receives their logits."""
