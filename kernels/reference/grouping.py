"""Groups the rows of a pass into rectangles, for attention by batched matrix products.

Knows layouts. Rows that attend in one call form [N, B, L]: N requests, each with B branches (one, for a trunk) of L
rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..layout import PAGE, Layout


@dataclass(frozen=True, slots=True)
class Group:
    """Row numbers `index` [N, B, L], padded with repeated rows; `real` [N * B * L] is False for padding.

    table [N, tiles]; seen and own_seen [N, B, L]; own_seen None: trunk rows, all of whose keys are in pages.
    """

    index: Tensor
    real: Tensor
    table: Tensor
    seen: Tensor
    own_seen: Tensor | None


@dataclass(frozen=True, slots=True)
class Row:
    at: int
    request: int
    seen: int
    own_first: int
    own_count: int


def groups(layout: Layout) -> list[Group]:
    """Returns rectangles over all rows except padding rows, which see nothing."""
    columns = (layout.request, layout.seen, layout.own_first, layout.own_count)
    fields = zip(*(column.tolist() for column in columns), strict=True)
    rows = [Row(at, *numbers) for at, numbers in enumerate(fields)]
    shapes: dict[tuple[bool, int, int], list[list[list[Row]]]] = defaultdict(list)
    for own, branches in _items([row for row in rows if row.seen or row.own_count]):
        length = _power(max(len(branch) for branch in branches))
        shapes[own, len(branches), length].append(branches)
    return [_group(layout, own, length, items) for (own, _, length), items in shapes.items()]


def _items(rows: list[Row]) -> Iterator[tuple[bool, list[list[Row]]]]:
    """Yields each request's trunk, as one branch, and its branches."""
    for (_, own), mine in groupby(rows, key=lambda row: (row.request, row.own_count > 0)):
        yield own, [list(branch) for _, branch in groupby(mine, key=lambda row: own and row.own_first)]


def _group(layout: Layout, own: bool, length: int, items: list[list[list[Row]]]) -> Group:
    def table(name: str) -> Tensor:
        """Returns one field as [N, B, L]; padding repeats the branch's first row."""
        return torch.tensor(
            [[[getattr(r, name) for r in b + b[:1] * (length - len(b))] for b in item] for item in items],
            device=layout.seen.device,
        )

    index = table("at")
    real = [at < len(branch) for item in items for branch in item for at in range(length)]
    tiles = max(1, max(-(-row.seen // PAGE) for item in items for branch in item for row in branch))
    requests = table("request")[:, 0, 0]
    return Group(
        index,
        torch.tensor(real, device=index.device),
        layout.tables[requests, :tiles],
        table("seen"),
        table("own_count") if own else None,
    )


def _power(length: int) -> int:
    """Returns the next power of two, which gives few shapes with little padding."""
    return 1 << (length - 1).bit_length()
