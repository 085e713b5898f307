"""What kernels are handed together: what a pass's rows see, how they are turned, weights, and the tokens wanted.

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
class Choice:
    """The token wanted of row `row` of a pass's logits: argmax of logits (/ temperature + noise) where that is allowed.

    `banned` [V] bool. `allowed` gives [ceil(V / 32)] int32: bits, None for all; it may take a while, so it is asked
    when the pass is on its way. `noise` [V]; None at temperature 0.
    """

    row: int
    banned: Tensor
    allowed: Callable[[], Tensor | None]
    noise: Tensor | None
    temperature: float
