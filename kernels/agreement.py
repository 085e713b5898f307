"""Whether rows have the same bits in any company, asked of an implementation with a model's own matrices.

Knows tensors, layouts and what a pass takes. Does not know what follows from the answer. It cannot prove that rows
agree; it finds an implementation whose bits depend on the number of rows, on the place of a row among them, on the
requests beside it or on the pages that others need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from .layout import PAGE, Block, Layout, Rotation, Stack

ROWS: Final = 33
"""More than a tile of any product here, and no multiple of one."""
_START: Final = PAGE + 6
"""Cached positions before the rows: whole tiles of keys, and one in part."""
_PARTS: Final = ((0, 1), (13, 14), (32, 33), (31, 33), (3, 6), (0, 5), (8, 16), (5, 21), (0, 32))
"""First and last row of passes that hold a part of the rows."""
_PAGES: Final = 2


@torch.inference_mode()
def disagreement(ops: Any, stack: Stack) -> str | None:
    """The first difference found, in words; None where all rows agree. It takes some dozen passes of a block or two.

    `ops` are `ops.Kernels`. Blocks of like matrices are probed once.
    """
    probe = _Probe.of(ops, stack)
    whole = probe.trunk(0, ROWS)
    kept = probe.keys.clone(), probe.values.clone()
    for first, last in _PARTS:
        what = f"row {first} alone" if last - first == 1 else f"rows {first} to {last - 1} alone"
        if not _same(probe.trunk(first, last), whole[first:last]):
            return f"{what} and among {ROWS} have other logits"
        if not (_same(probe.keys, kept[0]) and _same(probe.values, kept[1])):
            return f"{what} and among {ROWS} leave other keys or values"
    if not _same(probe.places(), whole[:1].expand(ROWS, -1)):
        return f"{ROWS} requests with the same row have other logits at other places"
    for adapted in (False, True) if probe.adapts else (False,):
        kind = "draft rows" if adapted else "rows"
        branch = probe.branch(probe.x, True, adapted)
        for count in (1, 2, 5, 16):
            if not _same(probe.branch(probe.x[:count], True, adapted), branch[:count]):
                return f"the first {count} {kind} of a branch, and of one of {ROWS}, have other logits"
        twins = probe.branch(probe.x[:1].expand(ROWS, -1), False, adapted)
        if not _same(twins, twins[:1].expand(ROWS, -1)):
            return f"{ROWS} {kind} of a branch that are the same row have other logits at other places"
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit; weights that make a NaN make it everywhere."""
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


@dataclass(frozen=True, slots=True)
class _Probe:
    """Rows x [ROWS, E] behind `_START` positions whose keys and values are at random."""

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

    @property
    def adapts(self) -> bool:
        return self.stack.blocks[0].adapter is not None

    def trunk(self, first: int, last: int) -> Tensor:
        """Logits of rows that see each other and are kept, of one request."""
        where = range(_START + first, _START + last)
        count = last - first
        return self._pass(
            self.x[first:last], [first + at for at in range(count)], requests=[0] * count,
            seen=[at + 1 for at in where], slots=list(where),
        )  # fmt: skip

    def places(self) -> Tensor:
        """Logits of the first row, whose key `trunk` has kept, asked by as many requests as there are rows."""
        everyone = list(range(ROWS))
        same = self.x[:1].expand(ROWS, -1)
        return self._pass(same, [0] * ROWS, requests=everyone, seen=[_START + 1] * ROWS, slots=[-1] * ROWS)

    def branch(self, x: Tensor, causal: bool, adapted: bool) -> Tensor:
        """Logits of rows x that are not kept. Where they do not differ by what they see, nor do they by position."""
        count = len(x)
        own = [at + 1 if causal else count for at in range(count)]
        return self._pass(
            x, [at if causal else 0 for at in range(count)], requests=[0] * count, seen=[_START] * count,
            slots=[-1] * count, own=own, adapted=adapted,
        )  # fmt: skip

    def _pass(
        self, x: Tensor, at: Sequence[int], *, requests: Sequence[int], seen: Sequence[int], slots: Sequence[int],
        own: Sequence[int] = (), adapted: bool = False,
    ) -> Tensor:  # fmt: skip
        def integers(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.int64, device=x.device)

        nothing = integers([0] * len(x))
        layout = Layout(
            tables=integers(range(_PAGES)).repeat(max(requests) + 1, 1),
            request=integers(requests),
            seen=integers(seen),
            own_first=nothing,
            own_count=integers(own) if own else nothing.clone(),
            slot=integers(slots),
        )
        turned = integers(at)
        rotation = Rotation(self.cos[turned], self.sin[turned], None)
        flags = x.new_ones(len(x), 1) if adapted else None
        read = integers(range(len(x)))
        # A copy, because an implementation may write over its rows.
        logits, _ = self.ops.forward(
            x.clone(memory_format=torch.contiguous_format), self.stack, rotation, flags, self.keys, self.values, layout,
            read, (),
        )  # fmt: skip
        return logits.clone()  # type: ignore[no-any-return]


def _kind(block: Block) -> tuple[object, ...]:
    """What tells blocks apart for a library: how each matrix is kept, and its sizes."""
    matrices = (block.qkv, block.out, block.gate_up, block.down, *(block.adapter or ()))
    names = ("shape", "dtype", "inputs", "outputs", "kind")
    return tuple((type(matrix), *(getattr(matrix, name, None) for name in names)) for matrix in matrices)
