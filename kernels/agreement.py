"""Whether rows have the same bits in any company, asked of an implementation with a model's own matrices.

Knows tensors, layouts and what a pass takes. Does not know what follows from the answer. It cannot prove that rows
agree; it finds an implementation whose bits depend on the number of rows, on the place of a row among them, on the
requests beside it or on the pages that others need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor

from .layout import PAGE, Block, Layout, Rotation, Stack

ROWS: Final = 33
"""More than a tile of any product here, and no multiple of one."""
_BRANCH: Final = 8
"""Rows of a first request's branch, and of a second one's, which takes the adapter where there is one."""
_TRUNK: Final = ROWS - 2 * _BRANCH
"""Rows of a third request, which are kept."""
_START: Final = PAGE + 6
"""Cached positions before the branch and the trunk: whole tiles of keys, and one in part."""
_SHORT: Final = PAGE - 24
"""The same before draft rows, so that others need more pages than they do."""
_PAGES: Final = 2


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the rows: of the branches the first `plain` and `drafts`, of the trunk `first` to `last` - 1."""

    plain: int = 0
    drafts: int = 0
    first: int = 0
    last: int = 0

    @property
    def kinds(self) -> tuple[range, range, range]:
        """Which they are among all."""
        trunk = 2 * _BRANCH
        return (
            range(self.plain), range(_BRANCH, _BRANCH + self.drafts), range(trunk + self.first, trunk + self.last),
        )  # fmt: skip

    def __str__(self) -> str:
        trunk = f"row {self.first}" if self.last - self.first == 1 else f"rows {self.first} to {self.last - 1}"
        said = (
            self.plain and f"the first {self.plain} of a branch",
            self.drafts and f"the first {self.drafts} of draft rows",
            self.last > self.first and trunk,
        )
        return ", ".join(word for word in said if word)


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
"""A pass each. With all and the one of alike rows, 1, 2, 3, 5, 8, 16, 32 and 33 rows: where kernels change their ways.

Every pass costs, on the torch path by its tiles and its many small operations. So kinds of rows share passes, as they
do in an engine, and each kind is at some time alone, at another place and in company of each other.
"""
_ALIKE: Final = 32
"""Rows that are the same row, as many requests' trunks and then as a branch, of which each row sees all."""
_TRUNKS: Final = 4


@torch.inference_mode()
def disagreement(ops: Any, stack: Stack) -> str | None:
    """The first difference found, in words; None where all rows agree. It takes nine passes of a block or two.

    `ops` are `ops.Kernels`. Blocks of like matrices are probed once.
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
    """Equal to the last bit; weights that make a NaN make it everywhere."""
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


@dataclass(slots=True)
class _Pass:
    """A pass on its way: which of the probe's its rows are, which take the adapter, and a layout's columns."""

    rows: list[int] = field(default_factory=list[int])
    drafts: list[bool] = field(default_factory=list[bool])
    request: list[int] = field(default_factory=list[int])
    seen: list[int] = field(default_factory=list[int])
    own_first: list[int] = field(default_factory=list[int])
    own_count: list[int] = field(default_factory=list[int])
    slot: list[int] = field(default_factory=list[int])

    def add(self, rows: Sequence[int], seen: Sequence[int], own: Sequence[int] = (), *, keep: bool = False,
            drafts: bool = False) -> None:  # fmt: skip
        """A request's rows. `own`: of how many of them each sees the keys, beside cached ones."""
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
    """Rows x [ROWS, E] behind cached positions whose keys and values are at random."""

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
            # Caches of their own: what an implementation notes on a block may be about all that follow it.
            replace(stack, blocks=[replace(block, cache={}) for block in blocks]),
            draw(ROWS, len(stack.norm)),
            turn.cos().to(stack.norm.device, stack.norm.dtype),
            turn.sin().to(stack.norm.device, stack.norm.dtype),
            draw(*pages, first.dim, PAGE),
            draw(*pages, PAGE, first.dim),
        )

    def logits(self, part: _Part) -> Tensor:
        """Of a pass of `part` alone. What its trunk rows see of others was kept by a pass of all."""
        made, (plain, drafts, trunk) = _Pass(), part.kinds
        made.add(plain, [_START] * len(plain), range(1, len(plain) + 1))
        made.add(drafts, [_SHORT] * len(drafts), range(1, len(drafts) + 1), drafts=True)
        made.add(trunk, range(_START + part.first + 1, _START + part.last + 1), keep=True)
        return self._run(made)

    def alike(self) -> Tensor:
        """Logits of the trunk's first row, `_ALIKE` times; its key has been kept."""
        made, count, first = _Pass(), _ALIKE - _TRUNKS, 2 * _BRANCH
        for _ in range(_TRUNKS):
            made.add([first], [_START + 1])
        made.add([first] * count, [_SHORT] * count, [count] * count, drafts=True)
        return self._run(made)

    def _run(self, made: _Pass) -> Tensor:
        def int64_tensor(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.int64, device=self.x.device)

        rows = int64_tensor(made.rows)
        layout = Layout(
            # No more pages than the pass needs: a row must not feel that others need more.
            tables=int64_tensor(range(-(-max(made.seen) // PAGE))).repeat(made.request[-1] + 1, 1),
            request=int64_tensor(made.request),
            seen=int64_tensor(made.seen),
            own_first=int64_tensor(made.own_first),
            own_count=int64_tensor(made.own_count),
            slot=int64_tensor(made.slot),
        )
        adapts = any(made.drafts) and self.stack.blocks[0].adapter is not None
        flags = self.x.new_tensor(made.drafts)[:, None] if adapts else None
        # Rows by their numbers are a copy, because an implementation may write over them.
        logits, _ = self.ops.forward(
            self.x[rows], self.stack, Rotation(self.cos[rows], self.sin[rows], None), flags, self.keys, self.values,
            layout, int64_tensor(range(len(made.rows))), (),
        )  # fmt: skip
        return logits.clone()  # type: ignore[no-any-return]


def _kind(block: Block) -> tuple[object, ...]:
    """What tells blocks apart for a library: how each matrix is kept, and its sizes."""
    matrices = (block.qkv, block.out, block.gate_up, block.down, *(block.adapter or ()))
    names = ("shape", "dtype", "inputs", "outputs", "kind")
    return tuple((type(matrix), *(getattr(matrix, name, None) for name in names)) for matrix in matrices)
