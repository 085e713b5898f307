"""The Triton products against plain torch, and a row against itself in other batches, bit for bit."""

from __future__ import annotations

import pytest
import torch
from devices import DTYPES, ROWS, close, draw, gaps, kept, on_each_device, poisoned
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import linear as triton_linear
from trimode.kernels.quantize import Quantized
from trimode.kernels.reference import fused
from trimode.kernels.tiles import tiles


@on_each_device
@pytest.mark.parametrize("precision", ["whole", "int8", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(1, 1, 1), (5, 7, 37), (17, 65, 130), (33, 130, 64), (3, 70, 300), (140, 9, 40)]
)
@pytest.mark.usefixtures("short_parts")
def test_linear_equals_plain_torch(
    device: str, dtype: torch.dtype, precision: str, rows: int, outputs: int, inputs: int
) -> None:
    x, onto = draw(rows, inputs, dtype=dtype, device=device), draw(rows, outputs, seed=2, dtype=dtype, device=device)
    weight = kept(draw(outputs, inputs, seed=1, dtype=dtype, device=device), precision)
    with poisoned():
        found, added = triton_linear.linear(x, weight), triton_linear.linear(x, weight, onto)
    close(found, fused.linear(x, weight))
    close(added, fused.linear(x, weight, onto))


@on_each_device
@pytest.mark.parametrize("precision", ["whole", "int8", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(70, 150), (33, 260)], ids=["one part", "two parts"])
@pytest.mark.usefixtures("short_parts")
def test_a_row_has_the_same_bits_in_any_company(
    device: str, dtype: torch.dtype, precision: str, outputs: int, inputs: int
) -> None:
    x, onto = draw(256, inputs, dtype=dtype, device=device), draw(256, outputs, seed=2, dtype=dtype, device=device)
    weight = kept(draw(outputs, inputs, seed=1, dtype=dtype, device=device), precision)
    whole = triton_linear.linear(x, weight, onto)
    for rows in ROWS if precision == "whole" else ROWS[::3]:
        assert torch.equal(triton_linear.linear(x[:rows], weight, onto[:rows]), whole[:rows]), rows
    for rows in (5, 130):
        assert torch.equal(triton_linear.linear(x[-rows:], weight, onto[-rows:]), whole[-rows:]), rows
    alone = torch.cat(
        [triton_linear.linear(x[row : row + 1], weight, onto[row : row + 1]) for row in (0, 15, 128, 255)]
    )
    assert torch.equal(alone, whole[[0, 15, 128, 255]])


def test_what_fixes_a_rows_bits_does_not_follow_the_rows() -> None:
    for values in (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn):
        for outputs, inputs in ((131072, 4096), (6144, 4096), (4096, 14336), (64, 4096), (40, 24), (1, 1)):
            plans = [tiles(rows, outputs, inputs, values) for rows in range(1, 300)]
            assert len({(plan.step, plan.chunk, plan.split) for plan in plans}) == 1
            assert plans[0].chunk % plans[0].step == 0
            assert plans[0].chunk * (plans[0].split - 1) < inputs <= plans[0].chunk * plans[0].split
    assert [tiles(1, size, 4096, torch.bfloat16).split for size in (131072, 6144, 4096, 64)] == [1, 3, 4, 8]


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("short_parts")
def test_parts_add_up_to_the_product(device: str, dtype: torch.dtype) -> None:
    x, weight = draw(5, 300, dtype=dtype, device=device), draw(33, 300, seed=1, dtype=dtype, device=device)
    onto = draw(5, 33, seed=2, dtype=dtype, device=device)
    with poisoned():
        found = triton_linear.parts(x, weight)
        sums = [triton_linear.fold(found, dtype, base) for base in (None, onto)]
    assert found.shape == (3, 5, 33)
    torch.testing.assert_close(found, fused.parts(x, weight), rtol=1e-4, atol=1e-3)
    for base, total in zip((None, onto), sums, strict=True):
        assert torch.equal(total, fused.fold(found, dtype, base))
        assert torch.equal(total, triton_linear.linear(x, weight, base))


@on_each_device
@pytest.mark.parametrize("precision", ["whole", "int8", "fp8"])
@pytest.mark.usefixtures("short_parts")
def test_rows_may_lie_apart(device: str, precision: str) -> None:
    for inputs in (60, 300):
        x, weight = draw(5, inputs, device=device), draw(33, inputs, seed=1, device=device)
        onto = draw(5, 33, seed=2, device=device)
        made = kept(weight, precision)
        spread = Quantized(gaps(made.values), made.scales) if isinstance(made, Quantized) else gaps(made)
        with poisoned():
            found = triton_linear.linear(gaps(x), spread, gaps(onto))
        assert torch.equal(found, triton_linear.linear(x, made, onto))


@on_each_device
@pytest.mark.usefixtures("short_parts")
def test_no_rows_are_no_launch(device: str) -> None:
    for inputs in (60, 300):
        none = draw(0, inputs, device=device)
        assert triton_linear.linear(none, draw(33, inputs, device=device)).shape == (0, 33)


@on_each_device
@pytest.mark.parametrize(
    ("x", "weight", "onto", "message"),
    [
        (draw(4, 3).T, draw(2, 4), None, r"x has strides \(1, 3\).*contiguous\(\)"),
        (draw(3, 4), draw(4, 2).T, None, r"weight has strides \(1, 2\)"),
        (draw(3, 4), draw(2, 5), None, r"weight has shape \[2, 5\]; this op takes \[any, 4\]"),
        (draw(3, 4)[0], draw(2, 4), None, r"x has shape \[4\]; this op takes \[any, any\]"),
        (draw(3, 4), draw(2, 4).bfloat16(), None, "weight is bfloat16; this op takes float32"),
        (draw(3, 4).half(), draw(2, 4), None, "x is float16; this op takes float32 or bfloat16"),
        (draw(3, 4), draw(2, 4), draw(2, 2), r"onto has shape \[2, 2\]; this op takes \[3, 2\]"),
        (draw(3, 4), draw(2, 4), draw(3, 2).bfloat16(), "onto is bfloat16; this op takes float32"),
        (draw(3, 4), draw(2, 4).to("meta"), None, "weight is on meta, the rows are on c"),
    ],
)
def test_what_cannot_be_read_is_refused(
    device: str, x: Tensor, weight: Tensor, onto: Tensor | None, message: str
) -> None:
    x, weight = x.to(device), weight if weight.is_meta else weight.to(device)
    with pytest.raises(TensorRefused, match=message):
        triton_linear.linear(x, weight, None if onto is None else onto.to(device))
