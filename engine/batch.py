"""One ragged pass: the segments of all requests as one row of tokens, and each row's way to keys and values.

Knows segments, page tables and the pool. Does not know modes or requests. Rows of like shape attend in one call: trunks
over their pages, branches over pages and themselves; how many ride along changes no row's result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimode.kernels import ops

from .model import Transformer
from .pages import PAGE, PagePool, pages_for
from .segment import Branch, Segment


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that attend in one call: `index` [N, B, L] into the pass, padded with repeats that `real` [N * B * L] hides.

    `table` [N, tiles], `seen` and `own_seen` [N, B, L] as in `ops.attention`; own_seen None: trunk rows.
    """

    index: Tensor
    real: Tensor
    table: Tensor
    seen: Tensor
    own_seen: Tensor | None

    def attend(self, pool: PagePool, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        own = None if self.own_seen is None else (k[self.index], v[self.index], self.own_seen)
        mixed = ops.attention(q[self.index], pool.keys[layer], pool.values[layer], self.table, self.seen, own)
        out[self.index.flatten()[self.real]] = mixed.flatten(0, 2)[self.real]


@dataclass(slots=True)
class Item:
    """One request's trunk (B = 1) or equally long branches on their way into `Rows`."""

    index: list[list[int]]
    seen: list[list[int]]
    own_seen: list[list[int]] | None
    table: list[int]


class Batch:
    """Segments with their page tables, laid out for one forward pass.

    `read`: pass rows whose logits are wanted; `reads`: how many of them are each segment's.
    """

    def __init__(self, segments: Sequence[Segment], tables: Sequence[list[int]], pool: PagePool) -> None:
        self.pool, self.device = pool, pool.keys.device
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.adapted: list[bool] = []
        self.read: list[int] = []
        self._kept: list[tuple[int, int, int]] = []  # row, page, offset
        self._items: dict[tuple[bool, int, int], list[Item]] = defaultdict(list)
        self.reads: list[int] = []
        for segment, table in zip(segments, tables, strict=True):
            first = len(self.read)
            self._trunk(segment, table)
            self._branches(segment, table)
            self.reads.append(len(self.read) - first)
        self.size = len(self.tokens)
        self._pad()

    def forward(self, model: Transformer) -> tuple[Tensor, ...]:
        """Each segment's logits [R, V] of its read rows; writes the trunks' keys and values."""
        kept, pages, offsets = self._tensor(self._kept).view(-1, 3).unbind(1)
        groups = [self._rows(shape, items) for shape, items in self._items.items()]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.pool.write(layer, pages, offsets, k[kept], v[kept])
            out = torch.zeros_like(q)
            for rows in groups:
                rows.attend(self.pool, layer, q, k, v, out)
            return out

        adapted = torch.tensor(self.adapted, device=self.device) if any(self.adapted) else None
        hidden = model(self._tensor(self.tokens), self._tensor(self.positions), attend, adapted)
        wanted = self.read + self.read[-1:] * (-len(self.read) % ops.ROW_TILE)
        logits = model.head(hidden[self._tensor(wanted)])[: len(self.read)]
        return tuple(torch.split(logits, self.reads))

    def _trunk(self, segment: Segment, table: list[int]) -> None:
        if not segment.trunk:
            return
        rows = self._add(segment.trunk, segment.start, adapter=False)
        self.read += rows[len(rows) - segment.read :]
        where = range(segment.start, segment.start + len(rows))
        self._kept += [(row, table[at // PAGE], at % PAGE) for row, at in zip(rows, where, strict=True)]
        length = _power(len(rows))
        spare = length - len(rows)
        seen = [at + 1 for at in where] + [1] * spare
        item = Item([rows + rows[:1] * spare], [seen], None, table[: pages_for(where.stop)])
        self._items[False, 1, length].append(item)

    def _branches(self, segment: Segment, table: list[int]) -> None:
        if not segment.branches:
            return
        length = _power(max(len(branch.tokens) for branch in segment.branches))
        item = Item([], [], [], table[: max(1, pages_for(segment.start + max(b.after for b in segment.branches)))])
        for branch in segment.branches:
            self._branch(branch, segment.start + branch.after, length, item)
        self._items[True, len(segment.branches), length].append(item)

    def _branch(self, branch: Branch, start: int, length: int, item: Item) -> None:
        assert item.own_seen is not None
        count = len(branch.tokens)
        rows = self._add(branch.tokens, start, branch.adapter)
        self.read += rows[count - branch.read :]
        spare = [0] * (length - count)
        item.index.append(rows + [rows[0] for _ in spare])
        item.seen.append([start] * length)
        item.own_seen.append([at + 1 if branch.causal else count for at in range(count)] + [1 for _ in spare])

    def _add(self, tokens: Sequence[int], start: int, adapter: bool) -> list[int]:
        first = len(self.tokens)
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.adapted += [adapter] * len(tokens)
        return list(range(first, first + len(tokens)))

    def _pad(self) -> None:
        """Whole row tiles, so that every product of the pass is row-invariant without padding for itself."""
        filler = -self.size % ops.ROW_TILE
        self.tokens += [0] * filler
        self.positions += [0] * filler
        self.adapted += [False] * filler

    def _rows(self, shape: tuple[bool, int, int], items: Sequence[Item]) -> Rows:
        beside, _, _ = shape
        tiles = max(len(item.table) for item in items)
        index = self._tensor([item.index for item in items])
        # A padding row repeats its branch's first one.
        first = index[:, :, :1]
        real = torch.cat((torch.ones_like(first), index[:, :, 1:] != first), dim=2).flatten().bool()
        return Rows(
            index,
            real,
            self._tensor([item.table + [0] * (tiles - len(item.table)) for item in items]),
            self._tensor([item.seen for item in items]),
            self._tensor([item.own_seen for item in items]) if beside else None,
        )

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _power(length: int) -> int:
    """The next power of two: few shapes, little padding."""
    return 1 << (length - 1).bit_length()
