"""Arguments that kernels share: what the rows of a pass see, rotations, weights, the tokens asked for and found.

Knows row numbers, page numbers and tensors. A layout's tensors are int64 on the pass's device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PAGE = 64
"""Positions of a page, and keys of an attention tile."""


@dataclass(slots=True)
class Layout:
    """What T rows of N requests see, and where they are cached: tables [N, tiles], the others [T].

    Row t sees the first seen[t] positions of the pages tables[request[t]], and in addition the rows own_first[t] ..
    own_first[t] + own_count[t] - 1 of the pass itself, whose keys are in no page. slot[t]: page * PAGE + offset where
    the row's own key and value are written; -1: nowhere. `cache`: values that an implementation computes once for all
    layers.
    """

    tables: Tensor
    request: Tensor
    seen: Tensor
    own_first: Tensor
    own_count: Tensor
    slot: Tensor
    cache: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and sin [T, D] of each row's position; `scale` [T] for its queries, or None."""

    cos: Tensor
    sin: Tensor
    scale: Tensor | None


@dataclass(frozen=True, slots=True)
class LowRank:
    """A low-rank term of a product, for marked rows only: (x A^T) B^T is added to the columns from `first` on.

    `low`: A [R, in]; `high`: B [columns, R], in which the scale is.
    """

    first: int
    low: Any
    high: Any


@dataclass(frozen=True, slots=True)
class Adapter:
    """The draft adapter of one block: the terms of each product as `prepare_adapter` returns them; empty for none."""

    qkv: tuple[LowRank, ...] = ()
    out: tuple[LowRank, ...] = ()
    gate_up: tuple[LowRank, ...] = ()
    down: tuple[LowRank, ...] = ()

    @property
    def matrices(self) -> list[Any]:
        """All matrices, in order."""
        terms = (*self.qkv, *self.out, *self.gate_up, *self.down)
        return [matrix for term in terms for matrix in (term.low, term.high)]


NO_ADAPTER = Adapter()


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer block: norms [E] (per head [D], where a family has them), matrices as `prepare` returns them.

    `queries` query heads and `groups` key-value heads of `dim`. `adapter`: for marked rows only. `norm_groups`: equal
    parts of a row that `norms` normalise each on its own. `cache`: values that an implementation computes once for all
    passes.
    """

    queries: int
    groups: int
    dim: int
    eps: float
    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    adapter: Adapter | None
    norm_groups: int = 1
    cache: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stack:
    """The whole model after the embedding: blocks, then norm [E] and LM head [V, E] (as `prepare` returns it).

    `norm_groups`: as in a block.
    """

    blocks: Sequence[Block]
    norm: Tensor
    eps: float
    head: Any
    norm_groups: int = 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request, whose token is argmax of logits (/ temperature, filtered, + keyed noise).

    The noise is keyed by seed and position. temperature 0: the best token, without noise and filters. top_k 0 and top_p
    1 switch filters off. `noise`: for implementations that read it, returns [P, V] fp32 at P positions as
    `reference.gumbel` does, None at temperature 0.
    """

    seed: int
    temperature: float
    top_k: int
    top_p: float
    noise: Callable[[Sequence[int]], Tensor | None]

    @property
    def filters(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """Tokens to choose from a pass's logits: one for each of `positions`, their places in the text, from row `row` on.

    `banned` [V] bool, the same tensor for all choices of a pass. `masks`: a grammar's bit mask [ceil(V / 32)] int32 for
    each row, None for all tokens; empty if no row has one.
    """

    row: int
    positions: Sequence[int]
    banned: Tensor
    masks: Sequence[Tensor | None]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One token per row, and its probability at temperature 1 among the tokens that the row's mask allows.

    `confidence` is empty if it was not computed.
    """

    tokens: list[int]
    confidence: list[float]
