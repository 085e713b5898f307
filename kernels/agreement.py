"""Checks whether a row's bits depend on the rest of the batch, for one implementation and a model's own matrices.

Knows tensors, layouts and what a pass takes. Does not know what follows from the answer. It cannot prove row
invariance; it finds implementations whose bits depend on the number of rows, on a row's place among them, on other
requests or on the pages that other requests need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor

from .layout import NO_ADAPTER, PAGE, Block, Layout, Rotation, Stack

ROWS: Final = 33
"""Rows of the full pass: more than one tile of any product here, and not a multiple of a tile."""
_BRANCH: Final = 8
"""Rows of the first request's branch, and of the second one's, which takes the draft adapter if there is one."""
_TRUNK: Final = ROWS - 2 * _BRANCH
"""Rows of the third request's trunk, whose keys and values are kept."""
_START: Final = PAGE + 6
"""Cached positions before the branch and the trunk: whole tiles of keys and a partial one."""
_SHORT: Final = PAGE - 24
"""Cached positions before the draft rows: fewer, so that other requests need more pages than they do."""
_PAGES: Final = 2


@dataclass(frozen=True, slots=True)
class _Part:
    """A subset of the rows: the first `plain` and `drafts` rows of the branches, trunk rows `first` to `last` - 1."""

    plain: int = 0
    drafts: int = 0
    first: int = 0
    last: int = 0

    @property
    def kinds(self) -> tuple[range, range, range]:
        """Returns the row numbers of each kind: branch, draft rows, trunk."""
        trunk = 2 * _BRANCH
        return (
            range(self.plain), range(_BRANCH, _BRANCH + self.drafts), range(trunk + self.first, trunk + self.last),
        )  # fmt: skip

    def __str__(self) -> str:
        trunk = f"row {self.first}" if self.last - self.first == 1 else f"rows {self.first} to {self.last - 1}"
        kinds = (
            self.plain and f"the first {self.plain} of a branch",
            self.drafts and f"the first {self.drafts} of draft rows",
            self.last > self.first and trunk,
        )
        return ", ".join(kind for kind in kinds if kind)


_ALL: Final = _Part(_BRANCH, _BRANCH, 0, _TRUNK)
_PARTS: Final = (
    _Part(first=13, last=14),
    _Part(drafts=1),
    _Part(plain=2),
    _Part(1, 1, 16, 17),
    _Part(first=0, last=5),
    _Part(drafts=5, first=3, last=6),
    _Part(5, 3, 8, 16),
)
"""Subsets of the rows, each run as a pass of its own.

With the full pass and the pass of equal rows these are 1, 2, 3, 5, 8, 16, 32 and 33 rows, where kernels change their
algorithm. Kinds of rows share passes, as in an engine, because every pass costs time; each kind also runs alone, at
another place, and together with each other kind.
"""
_ALIKE: Final = 32
"""Rows that are all the same row: the trunks of several requests, then a branch whose rows all see the whole branch."""
_TRUNKS: Final = 4
"""Number of the equal rows that are trunks of their own; the others form the branch."""


@torch.inference_mode()
def disagreement(ops: Any, stack: Stack) -> str | None:
    """Returns a sentence on the first difference found, or None where all rows agree.

    Runs nine passes of one or two blocks. `ops` are `ops.Kernels`. Of blocks with the same kinds of matrices one is
    checked.
    """
    probe = _Probe.of(ops, stack)
    whole = probe.logits(_ALL)
    kept = probe.keys.clone(), probe.values.clone()
    for part in _PARTS:
        if not _same(probe.logits(part), whole[list(chain(*part.kinds))]):
            return f"{part} alone and among {ROWS} have other logits"
        if not (_same(probe.keys, kept[0]) and _same(probe.values, kept[1])):
            return f"{part} alone and among {ROWS} leave other keys or values"
    alike = probe.alike()
    trunks, branch, first = alike[:_TRUNKS], alike[_TRUNKS:], whole[-_TRUNK:][:1]
    if not (_same(trunks, first.expand_as(trunks)) and _same(branch, branch[:1].expand_as(branch))):
        return f"{_ALIKE} rows that are the same row have other logits at other places"
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    """Returns whether `a` and `b` have equal bits; NaN equals NaN, because some weights make NaN in every pass."""
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


@dataclass(slots=True)
class _Pass:
    """A pass under construction: its rows (numbers in the probe), which take the adapter, and a layout's columns."""

    rows: list[int] = field(default_factory=list[int])
    drafts: list[bool] = field(default_factory=list[bool])
    request: list[int] = field(default_factory=list[int])
    seen: list[int] = field(default_factory=list[int])
    own_first: list[int] = field(default_factory=list[int])
    own_count: list[int] = field(default_factory=list[int])
    slot: list[int] = field(default_factory=list[int])

    def add(self, rows: Sequence[int], seen: Sequence[int], own: Sequence[int] = (), *, keep: bool = False,
            drafts: bool = False) -> None:  # fmt: skip
        """Adds the rows of one request.

        `own`: for each row, how many of these rows' keys it sees in addition to cached ones.
        """
        count = len(rows)
        if not count:
            return
        self.own_first += [len(self.rows) if own else 0] * count
        self.own_count += own or [0] * count
        self.request += [max(self.request, default=-1) + 1] * count
        self.rows += rows
        self.seen += seen
        self.slot += [at - 1 if keep else -1 for at in seen]
        self.drafts += [drafts] * count


@dataclass(frozen=True, slots=True)
class _Probe:
    """Random rows x [ROWS, E] after cached positions with random keys and values."""

    ops: Any
    stack: Stack
    x: Tensor
    cos: Tensor
    sin: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, ops: Any, stack: Stack) -> _Probe:
        drawn = torch.Generator().manual_seed(11)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=drawn).to(stack.norm.device, stack.norm.dtype)

        blocks = list({_kind(block): block for block in reversed(stack.blocks)}.values())
        first = blocks[0]
        turn = torch.randn(ROWS, first.dim // 2, generator=drawn).repeat(1, 2)
        pages = (len(blocks), _PAGES, first.groups)
        return cls(
            ops,
            # Fresh caches, because an implementation may cache on a block what belongs to all blocks after it.
            replace(stack, blocks=[replace(block, cache={}) for block in blocks]),
            draw(ROWS, len(stack.norm)),
            turn.cos().to(stack.norm.device, stack.norm.dtype),
            turn.sin().to(stack.norm.device, stack.norm.dtype),
            draw(*pages, first.dim, PAGE),
            draw(*pages, PAGE, first.dim),
        )

    def logits(self, part: _Part) -> Tensor:
        """Runs a pass of `part` alone.

        Trunk rows before `part` are in the cache: the pass of all rows has kept them.
        """
        batch, (plain, drafts, trunk) = _Pass(), part.kinds
        batch.add(plain, [_START] * len(plain), range(1, len(plain) + 1))
        batch.add(drafts, [_SHORT] * len(drafts), range(1, len(drafts) + 1), drafts=True)
        batch.add(trunk, range(_START + part.first + 1, _START + part.last + 1), keep=True)
        return self._run(batch)

    def alike(self) -> Tensor:
        """Returns the logits of the trunk's first row, run `_ALIKE` times in one pass; its key is in the cache."""
        batch, count, first = _Pass(), _ALIKE - _TRUNKS, 2 * _BRANCH
        for _ in range(_TRUNKS):
            batch.add([first], [_START + 1])
        batch.add([first] * count, [_SHORT] * count, [count] * count, drafts=True)
        return self._run(batch)

    def _run(self, batch: _Pass) -> Tensor:
        def int64_tensor(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.int64, device=self.x.device)

        rows = int64_tensor(batch.rows)
        layout = Layout(
            # No more pages than this pass needs: a row's bits must not depend on how many pages others need.
            tables=int64_tensor(range(-(-max(batch.seen) // PAGE))).repeat(batch.request[-1] + 1, 1),
            request=int64_tensor(batch.request),
            seen=int64_tensor(batch.seen),
            own_first=int64_tensor(batch.own_first),
            own_count=int64_tensor(batch.own_count),
            slot=int64_tensor(batch.slot),
        )
        adapts = any(batch.drafts) and any(block.adapter is not None for block in self.stack.blocks)
        flags = self.x.new_tensor(batch.drafts)[:, None] if adapts else None
        # Indexing copies the rows; an implementation may overwrite its input.
        logits, _ = self.ops.forward(
            self.x[rows], self.stack, Rotation(self.cos[rows], self.sin[rows], None), flags, self.keys, self.values,
            layout, int64_tensor(range(len(batch.rows))), (),
        )  # fmt: skip
        return logits.clone()  # type: ignore[no-any-return]


def _kind(block: Block) -> tuple[object, ...]:
    """Returns what makes blocks differ for a library: the storage and the sizes of each matrix."""
    adapter = block.adapter or NO_ADAPTER
    matrices = (block.qkv, block.out, block.gate_up, block.down, *adapter.matrices)
    names = ("shape", "dtype", "inputs", "outputs", "kind")
    return (
        *map(len, (adapter.qkv, adapter.out, adapter.gate_up, adapter.down)),
        *((type(matrix), *(getattr(matrix, name, None) for name in names)) for matrix in matrices),
    )
