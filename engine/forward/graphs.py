"""Passes over static buffers, by bucket: captured once, replayed for every pass that fits.

Knows a runner, its pages and sizes. Does not know segments: a batch hands in its numbers, padded with rows that see
nothing and are cached nowhere. A pass is captured from these numbers to the logits, LM head and adapter included.
Sampling has graphs of its own, by number of rows, because the host packs sampling parameters while the device runs the
pass. One such graph serves passes with filters and without, so there are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Protocol, cast

import torch
from torch import Tensor

from trimode.kernels.ops import Choice, Kernels, Layout, PendingTokens, QueuedKernels, StaticSampler, copy_into

from ..errors import RequestError
from ..kv_cache.pages import PAGE, PagePool, pages_for
from .runner import Runner

Work = Callable[[], None]
Progress = Callable[[int, int], None]
"""Callback with the number of captured graphs and the number of all graphs."""
_COLUMNS: Final = 9
"""Numbers per row: token, position, the five of a layout, whether it takes the adapter, and a row to read."""
_SLOT: Final = 6
"""Index of the column that says where a row's key and value are cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Size of a pass: query tokens, pages of its longest request, requests, and whether some row takes the adapter."""

    rows: int
    tiles: int
    batch: int
    adapted: bool = False

    @property
    def numbers(self) -> int:
        return _COLUMNS * self.rows + self.batch * self.tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Sizes that graphs are captured for: each of `rows` with each of `tiles` and of `batches`.

    Steps of `rows` keep padding below half of a pass, and below a third from 32 rows on; a bucket has at most as many
    requests as rows.
    """

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
    tiles: tuple[int, ...] = (16, 128)
    batches: tuple[int, ...] = (64,)

    def listed(self, row_tile: int, longest: int, adapter: bool) -> list[Bucket]:
        """Returns all buckets, smallest first. `longest`: pages of the longest possible request."""
        rows = sorted({-(-count // row_tile) * row_tile for count in self.rows})
        tiles = sorted({min(count, longest) for count in self.tiles})
        found = {
            Bucket(rows=count, tiles=pages, batch=min(batch, count), adapted=adapted)
            for count, pages, batch in product(rows, tiles, self.batches)
            for adapted in ((False, True) if adapter else (False,))
        }
        return sorted(found, key=lambda bucket: (bucket.rows, bucket.tiles, bucket.batch, bucket.adapted))


BUCKETS: Final = Buckets()


class Capture(Protocol):
    """How work over static buffers is recorded: `capture` returns a function that repeats it on their new content."""

    @property
    def name(self) -> str: ...
    def capture(self, work: Work, /) -> Work: ...


class Eager:
    """No graph: repeats the same work over the same buffers, for devices without graphs."""

    name = "static buffers"

    def capture(self, work: Work) -> Work:
        return work


class CudaGraphs:
    """CUDA graphs that share one memory pool, because no two of them run at once."""

    name = "CUDA graphs"

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def capture(self, work: Work) -> Work:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()  # compiles what is not compiled yet, because a capture must not compile
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads may use the device during the capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


@dataclass(frozen=True, slots=True)
class DeviceTokens:
    """Tokens on the device that the host does not know: `tokens` [n] for the rows `rows` [n] of a pass."""

    rows: Tensor
    tokens: Tensor

    def write_to(self, column: Tensor) -> None:
        """Writes them to a pass's column of tokens."""
        column.index_copy_(0, self.rows, self.tokens)


def capturing(kernels: Kernels, device: torch.device, graphs: bool | None) -> Capture | None:
    """Returns how passes are captured, None if they are not: by default on CUDA devices. Raises RequestError."""
    if device.type != "cuda":
        return Eager() if graphs else None
    if graphs is False or (graphs is None and not kernels.queued):
        return None
    if not kernels.queued:
        raise RequestError(
            f"graphs=True: {kernels.name} kernels wait for the device within a pass, which no graph can hold; "
            "kernels='triton' do not"
        )
    return CudaGraphs(device)


class Buffers:
    """The numbers of a pass in one tensor, so that one copy fills it, and its logits [rows, V]; shared by all buckets.

    `sampler`: chooses tokens from the logits, for kernels that can do so in a graph.
    """

    def __init__(self, runner: Runner, buckets: list[Bucket], device: torch.device) -> None:
        rows, numbers = max(bucket.rows for bucket in buckets), max(bucket.numbers for bucket in buckets)
        self.numbers: Tensor = torch.zeros(numbers, dtype=torch.int64, device=device)
        self.logits: Tensor = torch.zeros(rows, runner.config.vocab_size, dtype=runner.dtype, device=device)
        kernels = cast(QueuedKernels, runner.kernels)
        self.sampler: StaticSampler | None = kernels.static_sampler(self.logits) if kernels.queued else None

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.logits.nbytes + (self.sampler.nbytes if self.sampler else 0)

    def columns(self, bucket: Bucket) -> tuple[Tensor, ...]:
        """Returns views of a bucket's columns [rows], then of its page tables [batch, tiles]."""
        end = _COLUMNS * bucket.rows
        columns = self.numbers[:end].view(_COLUMNS, bucket.rows).unbind(0)
        return (*columns, self.numbers[end : bucket.numbers].view(bucket.batch, bucket.tiles))

    def empty(self, bucket: Bucket) -> None:
        """Writes the numbers of a pass whose rows see nothing and are cached nowhere."""
        self.numbers.zero_()
        self.columns(bucket)[_SLOT].fill_(-1)


class Graphs:
    """Captured passes of one runner over one pool. One thread at a time.

    `buffers` have the current pass. `counts`: numbers of rows with a graph that samples them; none if kernels cannot.
    `replayed` counts passes that a graph ran; `unfit` counts those that fit no bucket, by what was too large: "rows",
    "tiles", "batch"; "pool" for pages of another pool, "unread" for a part of a prompt of which nothing is read.
    """

    def __init__(self, runner: Runner, pool: PagePool, buckets: Buckets, capture: Capture) -> None:
        self.runner: Runner = runner
        self.pool: PagePool = pool
        self.sizes: Buckets = buckets
        self.capture: Capture = capture
        self.buckets: list[Bucket] = listed(runner, pool.pages, buckets)
        self.replayed: int = 0
        self.unfit: Counter[str] = Counter()
        self.buffers: Buffers = Buffers(runner, self.buckets, runner.device)
        self.counts: list[int] = counted(runner, self.buckets)
        self._angles = runner.fresh_angles()
        self._replays: dict[Bucket | int, Work] = {}

    @property
    def name(self) -> str:
        return self.capture.name

    @property
    def captured(self) -> int:
        return len(self._replays)

    def over(self, pool: PagePool) -> Graphs:
        """Returns graphs for other pages, captured when first used."""
        return Graphs(self.runner, pool, self.sizes, self.capture)

    def warm(self, progress: Progress | None = None) -> None:
        """Captures every bucket, the largest first, so that the others can reuse its memory."""
        works: list[Bucket | int] = [*reversed(self.buckets), *reversed(self.counts)]
        for one in works:
            if isinstance(one, Bucket):
                self.buffers.empty(one)
            elif self.buffers.sampler is not None:
                self.buffers.sampler.empty(one)
            self._replay(one)
            if progress is not None:
                progress(self.captured, len(works))

    def fitting(self, size: Bucket, pool: PagePool, reads: int) -> Bucket | None:
        """Returns the smallest bucket that a pass over `pool` fits, or None, which is counted.

        A pass that reads nothing fits none, because a graph would compute the logits of all rows.
        """
        found = "unread" if not reads else smallest(self.buckets, size) if pool is self.pool else "pool"
        if isinstance(found, Bucket):
            return found
        self.unfit[found] += 1
        return None

    @torch.inference_mode()
    def forward(self, bucket: Bucket, numbers: Tensor, reads: int, device_tokens: DeviceTokens | None = None) -> Tensor:
        """Runs a captured pass on its `numbers`; returns logits [reads, V] and writes keys and values to their pages.

        The logits are in the buffers, where the next pass overwrites them.
        """
        copy_into(numbers, self.buffers.numbers[: bucket.numbers])
        if device_tokens is not None:
            device_tokens.write_to(self.buffers.columns(bucket)[0])
        self._replay(bucket)()
        self.replayed += 1
        return self.buffers.logits[:reads]

    @torch.inference_mode()
    def begin(self, choices: Sequence[Choice]) -> PendingTokens:
        """Queues the tokens of `choices`, which cover all read rows of the last pass, in order."""
        sampler, wanted = self.buffers.sampler, sum(len(choice.positions) for choice in choices)
        assert sampler is not None, "kernels that wait for their results choose tokens themselves"
        rows = next(count for count in self.counts if count >= wanted)
        sampler.load(choices, rows)
        self._replay(rows)()
        return sampler.result(choices, rows)

    def _replay(self, one: Bucket | int) -> Work:
        """Returns the captured pass of a bucket, or the captured sampling of so many rows; captures it first if new."""
        if one not in self._replays:
            work = self._work(one) if isinstance(one, Bucket) else self._choosing(one)
            self._replays[one] = self.capture.capture(work)
        return self._replays[one]

    def _choosing(self, rows: int) -> Work:
        sampler = self.buffers.sampler

        @torch.inference_mode()
        def work() -> None:
            assert sampler is not None
            sampler.launch(rows)

        return work

    def _work(self, bucket: Bucket) -> Work:
        """Returns the pass from the buffers' numbers to their logits."""
        columns = self.buffers.columns(bucket)
        tokens, positions, request, seen, own_first, own_count, slot, adapted, read, tables = columns
        end = PAGE * max(each.tiles for each in self.buckets)
        self._angles.reserve(end)

        @torch.inference_mode()
        def work() -> None:
            flags = adapted != 0 if bucket.adapted else None
            layout = Layout(tables, request, seen, own_first, own_count, slot)
            logits, _ = self.runner.forward(tokens, positions, end, layout, flags, self.pool, read, (), self._angles)
            self.buffers.logits[: bucket.rows] = logits

        return work


def smallest(buckets: Sequence[Bucket], size: Bucket) -> Bucket | str:
    """Returns the first of `buckets`, smallest first, that `size` fits in; or the name of what is too large."""
    left = [bucket for bucket in buckets if bucket.adapted == size.adapted]
    for name in ("rows", "tiles", "batch"):
        left = [bucket for bucket in left if getattr(bucket, name) >= getattr(size, name)]
        if not left:
            return name
    return left[0]


def listed(runner: Runner, pages: int, buckets: Buckets) -> list[Bucket]:
    """Returns the buckets of a runner over a pool of `pages`."""
    longest = max(1, min(pages, pages_for(runner.config.max_position_embeddings)))
    return buckets.listed(runner.kernels.row_tile, longest, runner.has_adapter)


def counted(runner: Runner, buckets: Sequence[Bucket]) -> list[int]:
    """Returns the numbers of rows, smallest first, whose tokens a graph samples."""
    return sorted({bucket.rows for bucket in buckets}) if runner.kernels.queued else []
