"""What kernels are handed together: what a pass's rows see, how they are turned, weights, the tokens wanted and found.

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
    """T rows of N requests: tables [N, tiles], the others [T].

    Row t sees the first seen[t] positions of the pages tables[request[t]], and besides them the rows own_first[t] ..
    own_first[t] + own_count[t] - 1 of the pass itself, whose keys are in no page. slot[t]: page * PAGE + offset where
    the row's own key and value are kept; -1: nowhere.
    `cache`: whatever an implementation works out once for all layers of the pass.
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
class Block:
    """One transformer block: norms [E] (per head [D], where a family has them), matrices as `prepare` made them.

    `queries` query heads and `groups` key-value heads of `dim`. `adapter`: two matrices, for marked rows only. `cache`:
    whatever an implementation works out once for all passes.
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
    adapter: tuple[Any, Any] | None
    cache: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stack:
    """All of a model behind the embedding: blocks, then norm [E] and head [V, E] (as `prepare` made it)."""

    blocks: Sequence[Block]
    norm: Tensor
    eps: float
    head: Any


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request draws: argmax of its logits (/ temperature, filtered, + noise keyed by seed and position).

    temperature 0: the best token, without noise and filters. top_k 0 and top_p 1 for off. `noise`: for
    implementations that read it, [P, V] fp32 at some positions as `reference.gumbel` draws it, None at temperature 0.
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
    """The tokens wanted of a pass's logits from row `row` on, a row for each of `positions`, where they will stand.

    `banned` [V] bool, the same tensor for all choices of a pass. `masks`: a grammar's bit mask [ceil(V / 32)] int32 for
    each row, None for all tokens; empty where no row has one.
    """

    row: int
    positions: Sequence[int]
    banned: Tensor
    masks: Sequence[Tensor | None]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """A token a row, and its probability at temperature 1 among the tokens that the row allows.

    `confidence` is empty where tokens were chosen without working it out.
    """

    tokens: list[int]
    confidence: list[float]
