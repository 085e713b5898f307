"""Attention in Triton against the torch reference, and each row against itself in other batches, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from devices import DTYPES, INTERPRETED, close, draw, on_each_device, poisoned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import attention as triton_attention
from trimode.kernels.layout import PAGE, Layout
from trimode.kernels.reference import torch_ops

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FEW = settings(deadline=None, derandomize=True, max_examples=5 if INTERPRETED else 60)


@dataclass
class Pass:
    """A layout under construction: rows by request, each with what it sees."""

    rows: list[tuple[int, int, int, int]] = field(default_factory=list)

    def trunk(self, request: int, start: int, count: int, block: int = 1) -> Pass:
        """Rows that see up to the end of their aligned block, never past the trunk."""
        ends = (min(at // block * block + block, start + count) for at in range(start, start + count))
        self.rows += [(request, end, 0, 0) for end in ends]
        return self

    def branch(self, request: int, seen: int, count: int, causal: bool = False) -> Pass:
        first = len(self.rows)
        self.rows += [(request, seen, first, at + 1 if causal else count) for at in range(count)]
        return self

    def blank(self) -> Pass:
        self.rows.append((0, 0, 0, 0))
        return self

    def layout(self, tables: Tensor) -> Layout:
        columns = torch.tensor(self.rows, dtype=torch.int64, device=tables.device).view(-1, 4)
        request, seen, own_first, own_count = (column.contiguous() for column in columns.unbind(1))
        return Layout(tables, request, seen, own_first, own_count, torch.full_like(seen, -1))


def pages(groups: int, dim: int, dtype: torch.dtype, device: str, count: int = 12) -> tuple[Tensor, Tensor]:
    keys = draw(count, groups, dim, PAGE, seed=1, dtype=dtype, device=device)
    return keys, draw(count, groups, PAGE, dim, seed=2, dtype=dtype, device=device)


def tables(requests: int, tiles: int, device: str, count: int = 12) -> Tensor:
    made = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(n)) for n in range(requests)])
    return made[:, :tiles].to(device)


def alone(whole: Layout, row: int) -> tuple[list[int], Layout]:
    """A row as a pass of its own, with the rows of the branch that it sees, if any: their numbers, and the layout."""
    first, count = int(whole.own_first[row]), int(whole.own_count[row])
    rows = list(range(first, first + max(count, row - first + 1))) if count else [row]
    own_first = (whole.own_first[rows] - first).clamp_min(0)
    return rows, Layout(
        whole.tables, whole.request[rows], whole.seen[rows], own_first, whole.own_count[rows], whole.slot[rows]
    )


def mixed_pass(long: int = 7) -> Pass:
    """Every kind of row, on both sides of tiles and pages, a branch of `long` rows, and rows that only fill."""
    made = Pass().trunk(0, 60, 9).branch(0, 63, 5).branch(0, 69, long, causal=True).trunk(1, 0, 3, block=4)
    return made.branch(2, 0, 2).branch(2, 130, 1).trunk(2, 130, 1).branch(1, 3, 4, causal=True).blank().blank()


@on_each_device
@pytest.mark.parametrize(
    ("dtype", "queries", "groups", "dim", "long"),
    [
        (torch.float32, 3, 1, 6, 7),
        (torch.bfloat16, 2, 2, 20, 7),
        (torch.bfloat16, 4, 1, 8, 7),
        (torch.float32, 1, 1, 8, 67),
    ],
    ids=str,
)
def test_attention_equals_the_reference(
    device: str, dtype: torch.dtype, queries: int, groups: int, dim: int, long: int
) -> None:
    layout = mixed_pass(long).layout(tables(3, 4, device))
    x = draw(len(layout.seen), queries + 2 * groups, dim, dtype=dtype, device=device)
    keys, values = pages(groups, dim, dtype, device)
    with poisoned():
        found = triton_attention.attention(x, queries, keys, values, layout)
    expected = torch_ops.attention(x.float(), queries, keys.float(), values.float(), replace(layout, cache={}))
    close(found, expected.to(dtype))
    assert not found[-2:].any()


@on_each_device
@each_dtype
def test_each_row_is_the_same_alone(device: str, dtype: torch.dtype) -> None:
    layout = mixed_pass().layout(tables(3, 4, device))
    x = draw(len(layout.seen), 4, 8, dtype=dtype, device=device)
    keys, values = pages(1, 8, dtype, device)
    whole = triton_attention.attention(x, 2, keys, values, layout)
    for row in (0, 8, 9, 14, 20, 21, 24, 26, 28, 31):
        rows, own = alone(layout, row)
        single = triton_attention.attention(x[rows], 2, keys, values, own)
        assert torch.equal(single[rows.index(row)], whole[row]), row


@pytest.mark.parametrize("device", ["cuda"] if not INTERPRETED else ["cpu"])
@given(
    starts=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    trunks=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    branches=st.lists(st.lists(st.integers(1, 9), max_size=2), min_size=3, max_size=3),
    causal=st.booleans(),
    block=st.sampled_from([1, 4]),
    share=st.sampled_from([1, 3]),
    data=st.data(),
)
@FEW
def test_any_row_is_the_same_alone(
    device: str,
    starts: list[int],
    trunks: list[int],
    branches: list[list[int]],
    causal: bool,
    block: int,
    share: int,
    data: st.DataObject,
) -> None:
    made = Pass().blank()
    for request, start in enumerate(starts):
        made.trunk(request, start, trunks[request], block)
        for count in branches[request]:
            made.branch(request, data.draw(st.integers(start, start + trunks[request])), count, causal)
    layout = made.layout(tables(len(starts), 6, device))
    x = draw(len(layout.seen), share + 2, 4, device=device)
    keys, values = pages(1, 4, torch.float32, device)
    whole = triton_attention.attention(x, share, keys, values, layout)
    close(whole, torch_ops.attention(x, share, keys, values, replace(layout, cache={})))
    rows, own = alone(layout, data.draw(st.integers(0, len(layout.seen) - 1)))
    assert torch.equal(triton_attention.attention(x[rows], share, keys, values, own), whole[rows])


@on_each_device
def test_splits_follow_the_rows_own_length(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With short splits: rows on both sides of where splits double, in one pass and alone, in tables of any width."""
    monkeypatch.setattr(triton_attention, "SPLIT", PAGE)
    monkeypatch.setattr(triton_attention, "MAX_SPLITS", 2)
    layout = Pass().trunk(0, 126, 5).trunk(1, 255, 3).branch(1, 258, 2).layout(tables(2, 6, device))
    x, (keys, values) = draw(10, 4, 8, device=device), pages(1, 8, torch.float32, device)
    whole = triton_attention.attention(x, 2, keys, values, layout)
    close(whole, torch_ops.attention(x, 2, keys, values, replace(layout, cache={})))
    for row in range(10):
        rows, own = alone(layout, row)
        own.tables = own.tables[:, : -(-int(layout.seen[row]) // PAGE)]
        single = triton_attention.attention(x[rows], 2, keys, values, own)
        assert torch.equal(single[rows.index(row)], whole[row]), row


@on_each_device
def test_a_row_may_see_more_splits_than_fit_at_their_shortest(device: str) -> None:
    """From 4,097 positions on the split's length doubles."""
    layout = Pass().trunk(0, 4095, 3).layout(tables(1, 65, device, 65))
    x, (keys, values) = draw(3, 3, 4, device=device), pages(1, 4, torch.float32, device, 65)
    found = triton_attention.attention(x, 1, keys, values, layout)
    close(found, torch_ops.attention(x, 1, keys, values, replace(layout, cache={})))


@on_each_device
@each_dtype
def test_what_no_row_sees_is_not_read(device: str, dtype: torch.dtype) -> None:
    layout = Pass().trunk(0, 10, 3).branch(0, 12, 2).layout(tables(1, 1, device))
    x, (keys, values) = draw(7, 4, 8, dtype=dtype, device=device), pages(1, 8, dtype, device)
    clean = triton_attention.attention(x[:5], 2, keys, values, layout)
    keys[..., 13:], values[:, :, 13:], x[5:] = float("nan"), float("nan"), float("nan")
    assert torch.equal(triton_attention.attention(x[:5], 2, keys, values, replace(layout, cache={})), clean)


@on_each_device
def test_heads_and_pages_may_lie_apart(device: str) -> None:
    layout = Pass().trunk(0, 60, 9).branch(0, 63, 5).trunk(1, 3, 1).layout(tables(2, 4, device))
    rows = len(layout.seen)
    x, (keys, values) = draw(rows, 4, 8, device=device), pages(1, 8, torch.float32, device)
    plain = triton_attention.attention(x, 2, keys, values, layout)
    wide = torch.full((rows, 5, 12), float("nan"), device=device)
    wide[:, 1:, :8] = x
    layers = [torch.full((12, 2, *part.shape[1:]), float("nan"), device=device) for part in (keys, values)]
    for into, part in zip(layers, (keys, values), strict=True):
        into[:, 1] = part
    apart = triton_attention.attention(wide[:, 1:, :8], 2, layers[0][:, 1], layers[1][:, 1], layout)
    assert torch.equal(apart, plain)


@on_each_device
def test_an_empty_pass_gives_no_rows(device: str) -> None:
    layout = Pass().layout(tables(1, 1, device))
    keys, values = pages(1, 8, torch.float32, device)
    assert triton_attention.attention(draw(0, 4, 8, device=device), 2, keys, values, layout).shape == (0, 2, 8)


def cut(layout: Layout, share: int, dtype: torch.dtype, most: int | None = None) -> list[tuple[int, int]]:
    made = triton_attention.tiles(layout, share, dtype, most)
    return [(a, n) for a, n in zip(made.first.tolist(), made.count.tolist(), strict=True) if n]


@on_each_device
def test_tiles_hold_rows_of_one_kind(device: str) -> None:
    """Tiles of 16 query heads with 5 rows of 3 heads; requests, branches and splits are not mixed."""
    rows = Pass().trunk(0, 4090, 9).branch(0, 7, 2).branch(0, 7, 3).trunk(1, 0, 2)
    layout = rows.layout(tables(2, 1, device))
    expected = [(0, 5), (5, 1), (6, 3), (9, 2), (11, 3), (14, 2)]
    assert cut(layout, 3, torch.float32) == expected
    assert cut(layout, 3, torch.float32, most=6) == expected
    assert cut(layout, 3, torch.bfloat16) == [(0, 6), (6, 3), (9, 2), (11, 3), (14, 2)]


def test_too_few_tiles_are_noticed() -> None:
    layout = Pass().trunk(0, 0, 9).layout(tables(1, 1, "cpu"))
    with pytest.raises(RuntimeError, match="more than `most`"):
        triton_attention.tiles(layout, 16, torch.float32, most=8)


def refused(x: Tensor, queries: int, pages: Sequence[Tensor], layout: Layout, why: str) -> None:
    with pytest.raises(TensorRefused, match=why):
        triton_attention.attention(x, queries, pages[0], pages[1], layout)


def test_what_does_not_fit_is_refused() -> None:
    layout = Pass().trunk(0, 0, 3).layout(tables(1, 1, "cpu"))
    x, kv = draw(3, 4, 8), pages(1, 8, torch.float32, "cpu")
    refused(x.double(), 2, kv, layout, "x is float64; this op takes")
    refused(x, 2, [part.bfloat16() for part in kv], layout, "keys is bfloat16; this op takes float32")
    refused(x, 3, kv, layout, r"x has shape \[3, 4, 8\]; this op takes \[any, 5, any\]")
    refused(x, 2, [kv[0], kv[0]], layout, "values has shape")
    refused(x.transpose(0, 2).contiguous().transpose(0, 2), 2, kv, layout, "call contiguous")
    refused(x, 2, kv, replace(layout, seen=layout.seen.int()), "seen is int32")
    refused(x, 2, kv, replace(layout, own_count=torch.zeros(6, dtype=torch.int64)[::2]), "own_count has strides")
    refused(draw(3, 19, 8), 17, kv, layout, "17 query heads over 1 key-value heads")
    large = (torch.zeros(1, 1, 260, PAGE), torch.zeros(1, 1, PAGE, 260))
    refused(torch.zeros(3, 4, 260), 2, large, layout, "260 dimensions")
    refused(x, 2, [part.to("meta") for part in kv], layout, "keys is on meta")
