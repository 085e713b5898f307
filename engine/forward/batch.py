"""One ragged pass: the segments of all requests as one row of tokens, each with what it sees and where it is cached.

Knows segments and page tables. Does not know modes, requests or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from trimode.kernels.ops import Choice, Layout, PendingTokens, QueuedKernels, int64_tensor, to_device

from ..decoding.sampling import Sampler
from ..decoding.segment import Branch, SampledTokens, Segment
from ..kv_cache.pages import PAGE, PagePool, pages_for
from .graphs import Bucket, DeviceTokens, Graphs
from .runner import Runner


class Batch:
    """Segments with their page tables, laid out for one forward pass.

    `read`: pass rows whose logits are needed; `reads`: how many of them belong to each segment. `replayed`: whether a
    graph ran the pass.
    """

    replayed: bool
    segments: Sequence[Segment]
    tables: Sequence[list[int]]

    replayed = False

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
        self,
        runner: Runner,
        pool: PagePool,
        samplers: Sequence[Sampler] | None = None,
        graphs: Graphs | None = None,
    ) -> list[tuple[Tensor, SampledTokens | None]]:
        """Runs the pass.

        Returns each segment's logits [R, V] of its read rows and its sampled tokens; writes the cache. With `queued`
        kernels tokens are sampled for all read rows, with others for segments that need nothing else. Sampled tokens
        are None if the reader of the logits has to sample, as it does without samplers.
        """
        choices = self.choices(samplers, runner.kernels.queued)
        wanted = [choice for choice in choices if choice]
        if graphs is None and not runner.kernels.queued:
            logits, sampled = self._plain(runner, pool, wanted)
        else:
            logits = self.logits(runner, pool, graphs)
            sampled = self._sampled(runner, logits, wanted, graphs)
        return self.split_by_segment(logits, choices, sampled)

    def logits(
        self, runner: Runner, pool: PagePool, graphs: Graphs | None = None, device_tokens: DeviceTokens | None = None
    ) -> Tensor:
        """Returns logits [R, V] of all read rows; of a graph if one fits, whose next pass overwrites them.

        `device_tokens`: tokens that only the device knows.
        """
        bucket = None if graphs is None else graphs.fitting(self.size, pool, len(self.read))
        if graphs is not None and bucket is not None:
            self.replayed = True
            return graphs.forward(bucket, self.packed(bucket), len(self.read), device_tokens)
        return self._plain(runner, pool, (), device_tokens)[0]

    def begin(
        self, runner: Runner, logits: Tensor, wanted: Sequence[Choice], graphs: Graphs | None = None
    ) -> PendingTokens:
        """Queues `wanted` tokens of the latest `logits`; by a graph if one ran the pass and these are all rows."""
        whole = sum([len(choice.positions) for choice in wanted]) == len(self.read)
        if self.replayed and graphs is not None and graphs.counts and whole:
            return graphs.begin(wanted)
        return cast(QueuedKernels, runner.kernels).begin(logits, wanted)

    def _sampled(
        self, runner: Runner, logits: Tensor, wanted: Sequence[Choice], graphs: Graphs | None
    ) -> list[SampledTokens]:
        if not wanted or not runner.kernels.queued:
            return runner.kernels.choose(logits, wanted)
        return cast(QueuedKernels, runner.kernels).read([self.begin(runner, logits, wanted, graphs)])[0]

    def split_by_segment(
        self, logits: Tensor, choices: Sequence[Choice | None], sampled: Sequence[SampledTokens]
    ) -> list[tuple[Tensor, SampledTokens | None]]:
        """Returns what `forward` returns, from all logits and all sampled tokens."""
        found, parts = iter(sampled), torch.split(logits[: len(self.read)], self.reads)
        return [(rows, next(found) if choice else None) for rows, choice in zip(parts, choices, strict=True)]

    @property
    def size(self) -> Bucket:
        """The bucket size that the pass needs."""
        tiles = pages_for(max(self._positions, default=0) + 1)
        return Bucket(rows=len(self.tokens), tiles=tiles, batch=len(self.tables), adapted=any(self.adapted))

    def packed(self, bucket: Bucket) -> Tensor:
        """Returns the pass in the layout of `graphs.Buffers`, in CPU memory, padded to `bucket`."""
        self._fill(bucket.rows - len(self.tokens))
        read = self.read + [0] * (bucket.rows - len(self.read))
        tables = (self._padded(table, bucket.tiles) for table in self.tables)
        missing = [0] * (bucket.tiles * (bucket.batch - len(self.tables)))
        return int64_tensor(chain(*self._columns, self.adapted, read, *tables, missing))

    def _plain(
        self, runner: Runner, pool: PagePool, choices: Sequence[Choice], device_tokens: DeviceTokens | None = None
    ) -> tuple[Tensor, list[SampledTokens]]:
        """Runs a pass of just these rows, without a graph."""
        end = max(self._positions) + 1
        self._fill(-len(self.tokens) % runner.kernels.row_tile)
        device, columns = pool.keys.device, self._columns
        rows = to_device(int64_tensor(chain(*columns)), device).view(len(columns), -1)
        tokens, positions, request, seen, own_first, own_count, slot = rows.unbind(0)
        if device_tokens is not None:
            device_tokens.write_to(tokens)
        layout = Layout(self._tables(device), request, seen, own_first, own_count, slot)
        adapted = to_device(torch.tensor(self.adapted), device) if any(self.adapted) else None
        wanted = self.read + self.read[-1:] * (-len(self.read) % runner.kernels.row_tile)
        read = to_device(int64_tensor(wanted), device)
        return runner.forward(tokens, positions, end, layout, adapted, pool, read, choices)

    @property
    def _columns(self) -> tuple[list[int], ...]:
        """Columns of all rows: token, position, then a layout's columns in order."""
        return (
            self.tokens, self._positions, self._request, self._seen, self._own_first, self._own_count, self._slot,
        )  # fmt: skip

    def choices(self, samplers: Sequence[Sampler] | None, all_of_them: bool) -> list[Choice | None]:
        """Returns for each segment the tokens that the pass is to sample, or None."""
        if samplers is None:
            return [None] * len(self.segments)
        found, row = list[Choice | None](), 0
        for segment, reads, sampler in zip(self.segments, self.reads, samplers, strict=True):
            waits = sampler.biased or (segment.constrained and sampler.filters)
            wanted = (segment.choose or (all_of_them and reads > 0)) and not waits
            found.append(sampler.choice(row, segment.positions) if wanted else None)
            row += reads
        return found

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
        """Adds padding rows, which see nothing and are cached nowhere."""
        for column in (self.tokens, self._positions, self._request, self._seen, self._own_first, self._own_count):
            column += [0] * count
        self._slot += [-1] * count
        self.adapted += [False] * count

    def _tables(self, device: torch.device) -> Tensor:
        """Returns [N, tiles], padded with page 0, which no row reads there."""
        tiles = max(map(len, self.tables))
        padded = (self._padded(table, tiles) for table in self.tables)
        return to_device(int64_tensor(chain.from_iterable(padded)), device).view(-1, tiles)

    @staticmethod
    def _padded(table: list[int], tiles: int) -> list[int]:
        return table[:tiles] + [0] * (tiles - len(table))
