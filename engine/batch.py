"""One ragged pass: the segments of all requests as one row of tokens, each row with what it sees and where it is kept.

Knows segments and page tables. Does not know modes, requests or weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimode.kernels.ops import Layout

from .pages import PAGE, PagePool
from .runner import Runner
from .segment import Branch, Segment


class Batch:
    """Segments with their page tables, laid out for one forward pass.

    `read`: pass rows whose logits are wanted; `reads`: how many of them are each segment's.
    """

    def __init__(self, segments: Sequence[Segment], tables: Sequence[list[int]]) -> None:
        self.tables = tables
        self.tokens: list[int] = []
        self.adapted: list[bool] = []
        self.read: list[int] = []
        self.reads: list[int] = []
        self._positions: list[int] = []
        self._request: list[int] = []
        self._seen: list[int] = []
        self._own_first: list[int] = []
        self._own_count: list[int] = []
        self._slot: list[int] = []
        for index, segment in enumerate(segments):
            first = len(self.read)
            self._trunk(index, segment, tables[index])
            for branch in segment.branches:
                self._branch(index, segment.start + branch.after, branch)
            self.reads.append(len(self.read) - first)

    def forward(self, runner: Runner, pool: PagePool) -> tuple[Tensor, ...]:
        """Each segment's logits [R, V] of its read rows; the trunks' keys and values go to their pages."""
        self._fill(-len(self.tokens) % runner.kernels.row_tile)
        device = pool.keys.device
        columns = (
            self.tokens, self._positions, self._request, self._seen, self._own_first, self._own_count, self._slot,
        )  # fmt: skip
        tokens, positions, request, seen, own_first, own_count, slot = torch.tensor(columns, device=device).unbind(0)
        layout = Layout(self._tables(device), request, seen, own_first, own_count, slot)
        adapted = torch.tensor(self.adapted, device=device) if any(self.adapted) else None
        wanted = self.read + self.read[-1:] * (-len(self.read) % runner.kernels.row_tile)
        read = torch.tensor(wanted, dtype=torch.int64, device=device)
        logits = runner.logits(tokens, positions, layout, adapted, pool, read)
        return tuple(torch.split(logits[: len(self.read)], self.reads))

    def _trunk(self, index: int, segment: Segment, table: list[int]) -> None:
        count = len(segment.trunk)
        where = range(segment.start, segment.start + count)
        self._add(index, segment.trunk, segment.start, segment.read)
        self._seen += (min(at // segment.block * segment.block + segment.block, where.stop) for at in where)
        self._own_first += [0] * count
        self._own_count += [0] * count
        self._slot += [table[at // PAGE] * PAGE + at % PAGE for at in where]

    def _branch(self, index: int, start: int, branch: Branch) -> None:
        first, count = len(self.tokens), len(branch.tokens)
        self._add(index, branch.tokens, start, branch.read, branch.adapter)
        self._seen += [start] * count
        self._own_first += [first] * count
        self._own_count += range(1, count + 1) if branch.causal else [count] * count
        self._slot += [-1] * count

    def _add(self, index: int, tokens: Sequence[int], start: int, read: int, adapter: bool = False) -> None:
        end = len(self.tokens) + len(tokens)
        self.tokens += tokens
        self._positions += range(start, start + len(tokens))
        self._request += [index] * len(tokens)
        self.adapted += [adapter] * len(tokens)
        self.read += range(end - read, end)

    def _fill(self, count: int) -> None:
        """Rows that see nothing and are kept nowhere, for kernels that want whole row tiles."""
        for column in (self.tokens, self._positions, self._request, self._seen, self._own_first, self._own_count):
            column += [0] * count
        self._slot += [-1] * count
        self.adapted += [False] * count

    def _tables(self, device: torch.device) -> Tensor:
        """[N, tiles], padded with page 0, which nobody looks at there."""
        tiles = max(map(len, self.tables))
        return torch.tensor([table + [0] * (tiles - len(table)) for table in self.tables], device=device)
