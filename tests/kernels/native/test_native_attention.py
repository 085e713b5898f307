"""Attention of rows that share loads: a row has the bits that it has alone, and the numbers of the reference."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_rows import with_threads
from torch import Tensor

from trimode.kernels.layout import PAGE, Layout
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import torch_ops

PAGES = 3


class Group(NamedTuple):
    """Neighbouring rows of a request: a trunk whose rows see one position more each, or a branch beside `seen`."""

    request: int
    rows: int
    seen: int
    branch: bool
    causal: bool


groups = st.lists(
    st.builds(
        Group, st.integers(0, 1), st.integers(1, 9), st.integers(1, PAGES * PAGE - 9), st.booleans(), st.booleans()
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def layout_of(parts: list[Group]) -> Layout:
    columns: list[tuple[int, int, int, int]] = []
    for part in parts:
        first = len(columns)
        for row in range(part.rows):
            count = (row + 1 if part.causal else part.rows) if part.branch else 0
            columns.append((part.request, part.seen + (0 if part.branch else row), first if count else 0, count))
    request, seen, own_first, own_count = (torch.tensor(column) for column in zip(*columns, strict=True))
    tables = torch.arange(2 * PAGES).view(2, PAGES)
    return Layout(tables, request, seen, own_first, own_count, torch.full_like(seen, -1))


def part_of(layout: Layout, first: int, last: int) -> Layout:
    """The rows first .. last - 1, whose branches begin there or are no branches."""
    at = slice(first, last)
    own = (layout.own_first[at] - first).clamp(min=0)
    return Layout(layout.tables, layout.request[at], layout.seen[at], own, layout.own_count[at], layout.slot[at])


@pytest.mark.parametrize("threads", [1, 2])
@given(
    parts=groups, heads=st.sampled_from([1, 2, 3, 4, 6]), shared=st.integers(1, 3),
    dim=st.sampled_from([7, 16, 32, 64, 128]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_row_is_what_it_is_alone(
    threads: int, parts: list[Group], heads: int, shared: int, dim: int, seed: int
) -> None:
    layout, draw = layout_of(parts), torch.Generator().manual_seed(seed)
    x = torch.randn(len(layout.seen), (heads + 2) * shared, dim, generator=draw)
    keys = torch.randn(2 * PAGES, shared, dim, PAGE, generator=draw)
    values = torch.randn(2 * PAGES, shared, PAGE, dim, generator=draw)

    def attended(rows: Tensor, part: Layout) -> Tensor:
        return Native.load().attention(rows, heads * shared, keys, values, part)

    with with_threads(threads):
        whole = attended(x, layout)
        expected = torch_ops.attention(x, heads * shared, keys, values, layout)
        torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
        for row in range(len(x)):
            count = int(layout.own_count[row])
            first = int(layout.own_first[row]) if count else row
            last = max(row + 1, first + count)
            assert torch.equal(attended(x[first:last], part_of(layout, first, last))[row - first], whole[row]), row
