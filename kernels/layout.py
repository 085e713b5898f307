"""What the rows of one ragged pass see and where their keys and values go: the argument that attention kernels share.

Knows row numbers and page numbers. All tensors are int64 on the pass's device.
"""

from __future__ import annotations

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
