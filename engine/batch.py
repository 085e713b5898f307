"""One ragged pass: the segments of all requests as one row of tokens, each row with what it sees and where it is kept.

Knows segments and page tables. Does not know modes, requests or weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from trimode.kernels.ops import Choice, Layout

from .pages import PAGE, PagePool
from .runner import Runner
from .sampling import Sampler
from .segment import Branch, Segment


class Batch:
    """Segments with their page tables, laid out for one forward pass.

    `read`: pass rows whose logits are wanted; `reads`: how many of them are each segment's.
    """

    def __init__(self, segments: Sequence[Segment], tables: Sequence[list[int]]) -> None:
        self.segments, self.tables = segments, tables
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

    def forward(
        self, runner: Runner, pool: PagePool, samplers: Sequence[Sampler] | None = None
    ) -> list[tuple[Tensor, int | None]]:
        """Each segment's logits [R, V] of its read rows, and the token chosen there; keys and values go to their pages.

        The token is None where none was wanted, and where it is left to whoever reads the logits: without a sampler, or
        by one that filters.
        """
        end = max(self._positions) + 1
        self._fill(-len(self.tokens) % runner.kernels.row_tile)
        device = pool.keys.device
        columns = (
            self.tokens, self._positions, self._request, self._seen, self._own_first, self._own_count, self._slot,
        )  # fmt: skip
        rows = _integers(chain(*columns), device).view(len(columns), -1)
        tokens, positions, request, seen, own_first, own_count, slot = rows.unbind(0)
        layout = Layout(self._tables(device), request, seen, own_first, own_count, slot)
        adapted = torch.tensor(self.adapted, device=device) if any(self.adapted) else None
        wanted = self.read + self.read[-1:] * (-len(self.read) % runner.kernels.row_tile)
        read = _integers(wanted, device)
        choices = self._choices(samplers)
        logits, chosen = runner.forward(
            tokens, positions, end, layout, adapted, pool, read, [choice for choice in choices if choice]
        )
        found = iter(chosen)
        parts = torch.split(logits[: len(self.read)], self.reads)
        return [(rows, next(found) if choice else None) for rows, choice in zip(parts, choices, strict=True)]

    def _choices(self, samplers: Sequence[Sampler] | None) -> list[Choice | None]:
        """What each segment wants chosen; its trunk's read rows come first of its logits."""
        if samplers is None:
            return [None] * len(self.segments)
        rows = accumulate([0, *self.reads[:-1]])
        return [
            sampler.choice(row + s.read - 1, s.start + len(s.trunk), s.choose) if s.choose else None
            for s, sampler, row in zip(self.segments, samplers, rows, strict=True)
        ]

    def _trunk(self, index: int, segment: Segment, table: list[int]) -> None:
        count = len(segment.trunk)
        where = range(segment.start, segment.start + count)
        self._add(index, segment.trunk, segment.start, segment.read)
        if segment.block == 1:
            self._seen += range(where.start + 1, where.stop + 1)
        else:
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
        padded = (table + [0] * (tiles - len(table)) for table in self.tables)
        return _integers(chain.from_iterable(padded), device).view(-1, tiles)


def _integers(values: Iterable[int], device: torch.device) -> Tensor:
    """[N] int64. An array first: torch looks at each element of a list several times."""
    packed = array("q", values)
    return (
        torch.frombuffer(packed, dtype=torch.int64).to(device)
        if packed
        else torch.empty(0, dtype=torch.int64, device=device)
    )
