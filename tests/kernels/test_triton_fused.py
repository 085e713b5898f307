"""Norm, SwiGLU and adapter in Triton against plain torch, and a row against itself in other batches, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import DTYPES, ROWS, close, draw, gaps, kept, on_each_device, poisoned
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import linear as triton_linear
from trimode.kernels.gpu import lora as triton_lora
from trimode.kernels.gpu import norm as triton_norm
from trimode.kernels.gpu import swiglu as triton_swiglu
from trimode.kernels.quantize import Quantized
from trimode.kernels.reference import fused

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_precision = pytest.mark.parametrize("precision", ["whole", "int8", "fp8"])


@on_each_device
@each_dtype
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 7), (5, 64), (2, 1000), (1, 5120)])
def test_norm_equals_plain_torch(device: str, dtype: torch.dtype, rows: int, size: int, groups: int) -> None:
    """`size`: of a group where there are several."""
    size = size if groups == 1 else groups * min(size, 100)
    x, weight = draw(rows, size, dtype=dtype, device=device) * 3, draw(size, seed=1, dtype=dtype, device=device)
    onto, parts = draw(rows, size, seed=2, dtype=dtype, device=device), draw(3, rows, size, seed=3, device=device)
    with poisoned():
        normed = triton_norm.rms_norm(gaps(x), weight, 1e-5, groups)
        added = [triton_norm.add_rms_norm(more, gaps(onto), weight, 1e-5, groups) for more in (x, parts)]
    close(normed, fused.rms_norm(x, weight, 1e-5, groups))
    for more, (total, after) in zip((x, parts), added, strict=True):
        expected = fused.add_rms_norm(more, onto, weight, 1e-5, groups)
        assert torch.equal(total, expected[0])
        close(after, expected[1])
        assert torch.equal(after, triton_norm.rms_norm(total, weight, 1e-5, groups))


@on_each_device
@each_dtype
def test_norm_rows_have_the_same_bits_in_any_company(device: str, dtype: torch.dtype) -> None:
    x, weight = draw(40, 600, dtype=dtype, device=device), draw(600, seed=1, dtype=dtype, device=device)
    parts = draw(3, 40, 600, seed=2, device=device)
    whole, (total, after) = triton_norm.rms_norm(x, weight, 1e-5), triton_norm.add_rms_norm(parts, x, weight, 1e-5)
    for rows in (1, 2, 17, 39):
        assert torch.equal(triton_norm.rms_norm(x[:rows], weight, 1e-5), whole[:rows])
        found = triton_norm.add_rms_norm(parts[:, :rows], x[:rows], weight, 1e-5)
        assert torch.equal(found[0], total[:rows])
        assert torch.equal(found[1], after[:rows])


@on_each_device
@each_dtype
@pytest.mark.usefixtures("short_parts")
def test_a_split_product_may_end_in_the_norm(device: str, dtype: torch.dtype) -> None:
    """The residual stream is the same whether the parts are added by `linear` or by the norm."""
    x, weight = draw(5, 300, dtype=dtype, device=device), draw(33, 300, seed=1, dtype=dtype, device=device)
    onto, scale = draw(5, 33, seed=2, dtype=dtype, device=device), draw(33, seed=3, dtype=dtype, device=device)
    total, _ = triton_norm.add_rms_norm(triton_linear.parts(x, weight), onto, scale, 1e-5)
    assert torch.equal(total, triton_linear.linear(x, weight, onto))


@on_each_device
@each_dtype
@each_precision
@pytest.mark.parametrize(("rows", "size", "inputs"), [(1, 1, 1), (3, 33, 70), (17, 65, 128), (140, 5, 40)])
def test_gated_equals_plain_torch(
    device: str, dtype: torch.dtype, precision: str, rows: int, size: int, inputs: int
) -> None:
    x = draw(rows, inputs, dtype=dtype, device=device)
    weight = kept(draw(2 * size, inputs, seed=1, dtype=dtype, device=device), precision)
    with poisoned():
        found = triton_swiglu.gated(gaps(x), weight)
    close(found, fused.gated(x, weight))


@on_each_device
def test_gates_far_from_zero_stay_finite(device: str) -> None:
    x = torch.tensor([[-200.0], [-88.0], [0.0], [88.0], [200.0]], device=device)
    weight = torch.ones(2, 1, device=device)
    assert triton_swiglu.gated(x, weight).flatten().tolist() == pytest.approx([0, 0, 0, 88.0**2, 200.0**2])


@on_each_device
@each_dtype
@each_precision
def test_a_gated_row_has_the_same_bits_in_any_company(device: str, dtype: torch.dtype, precision: str) -> None:
    x = draw(256, 150, dtype=dtype, device=device)
    weight = kept(draw(70, 150, seed=1, dtype=dtype, device=device), precision)
    whole = triton_swiglu.gated(x, weight)
    assert torch.equal(triton_swiglu.gated(x[-5:], weight), whole[-5:])
    for rows in ROWS if precision == "whole" else ROWS[::3]:
        assert torch.equal(triton_swiglu.gated(x[:rows], weight), whole[:rows]), rows


def low_rank(rank: int, outputs: int, inputs: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    return (
        draw(rank, inputs, seed=5, dtype=dtype, device=device),
        draw(outputs, rank, seed=6, dtype=dtype, device=device),
    )


@on_each_device
@each_dtype
@each_precision
@pytest.mark.parametrize(("rank", "inputs"), [(1, 40), (5, 300), (20, 70), (70, 70)])
@pytest.mark.usefixtures("short_parts")
def test_marked_rows_get_the_adapter_and_others_keep_their_bits(
    device: str, dtype: torch.dtype, precision: str, rank: int, inputs: int
) -> None:
    x, onto = draw(33, inputs, dtype=dtype, device=device), draw(33, 70, seed=2, dtype=dtype, device=device)
    weight = kept(draw(70, inputs, seed=1, dtype=dtype, device=device), precision)
    adapter, flags = low_rank(rank, 70, inputs, dtype, device), torch.arange(33, device=device) % 3 == 1
    with poisoned():
        found = triton_lora.adapted_linear(gaps(x), weight, adapter, flags, onto)
        bare = triton_linear.linear(x, weight, onto)
        numbers = triton_lora.adapted_linear(x, weight, adapter, flags.to(dtype), onto)
        split = triton_lora.adapted_parts(x, weight, adapter, flags)
    assert torch.equal(found[~flags], bare[~flags])
    assert not torch.isclose(found[flags].float(), bare[flags].float()).all(-1).any()
    close(found, fused.adapted_linear(x, weight, adapter, flags, onto))
    assert torch.equal(numbers, found)
    assert torch.equal(triton_linear.fold(split, dtype, onto), found)
    alone = [
        triton_lora.adapted_linear(x[i : i + 1], weight, adapter, flags[i : i + 1], onto[i : i + 1]) for i in (1, 2)
    ]
    assert torch.equal(torch.cat(alone), found[1:3])


@on_each_device
@each_dtype
@each_precision
@pytest.mark.parametrize(("rank", "inputs"), [(1, 40), (5, 300), (70, 70)])
@pytest.mark.usefixtures("short_parts")
def test_marked_rows_are_gated_with_the_adapter(
    device: str, dtype: torch.dtype, precision: str, rank: int, inputs: int
) -> None:
    """A rank above 32 takes several steps."""
    x = draw(33, inputs, dtype=dtype, device=device)
    weight = kept(draw(70, inputs, seed=1, dtype=dtype, device=device), precision)
    adapter, flags = low_rank(rank, 70, inputs, dtype, device), torch.arange(33, device=device) % 3 == 1
    with poisoned():
        found = triton_swiglu.gated(gaps(x), weight, triton_lora.delta(gaps(x), adapter, flags))
        bare = triton_swiglu.gated(x, weight)
    assert torch.equal(found[~flags], bare[~flags])
    assert (found[flags] != bare[flags]).any(1).all()
    expected = fused.gated(x, weight, adapter, flags)
    torch.testing.assert_close(found, expected, rtol=2**-6 if dtype == torch.bfloat16 else 1e-4, atol=1e-2)
    alone = triton_swiglu.gated(x[1:2], weight, triton_lora.delta(x[1:2], adapter, flags[1:2]))
    assert torch.equal(alone, found[1:2])


@on_each_device
@each_dtype
@pytest.mark.usefixtures("short_parts")
def test_without_a_marked_row_the_adapter_is_not_read(device: str, dtype: torch.dtype) -> None:
    """Its first product is zeros where no row of a tile is marked, whatever the matrices hold."""
    x, weight = draw(20, 300, dtype=dtype, device=device), draw(33, 300, seed=1, dtype=dtype, device=device)
    poison = tuple(torch.full_like(part, float("nan")) for part in low_rank(5, 33, 300, dtype, device))
    none = torch.zeros(20, dtype=torch.bool, device=device)
    with poisoned():
        low = triton_linear.parts(x, poison[0], none)
        found = triton_lora.adapted_linear(x, weight, (poison[0], poison[1]), none)
    assert not low.any()
    assert torch.equal(found, triton_linear.linear(x, weight))


@on_each_device
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("odd", "3 rows; gate and up need an even number"),
        ("long", r"rows of 16385 numbers are too long for one program; at most 16384"),
        ("norm", r"weight has shape \[3\]; this op takes \[4\]"),
        ("groups", "rows of 4 numbers cannot be cut into 3 equal groups"),
        ("onto", r"x has shape \[2, 4\]; this op takes \[3, 4\]"),
        ("half", "x is bfloat16; this op takes float32"),
        ("flags", r"flags has shape \[3\]; this op takes \[2\]"),
        ("high", r"high has shape \[6, 4\]; this op takes \[6, 5\]"),
        ("scales", r"scales has shape \[3\]; this op takes \[6\]"),
        ("values", "weight is float64; this op takes int8 or float8_e4m3fn"),
    ],
)
def test_what_does_not_fit_is_refused(device: str, case: str, message: str) -> None:
    def ones(*shape: int) -> Tensor:
        return torch.ones(*shape, device=device)

    x, flags = ones(2, 4), ones(2)
    calls: dict[str, Callable[[], object]] = {
        "odd": lambda: triton_swiglu.gated(x, ones(3, 4)),
        "long": lambda: triton_norm.rms_norm(ones(1, 16385), ones(16385), 1e-5),
        "norm": lambda: triton_norm.rms_norm(x, ones(3), 1e-5),
        "groups": lambda: triton_norm.rms_norm(x, ones(4), 1e-5, 3),
        "onto": lambda: triton_norm.add_rms_norm(x, ones(3, 4), ones(4), 1e-5),
        "half": lambda: triton_norm.add_rms_norm(x.bfloat16(), ones(2, 4), ones(4), 1e-5),
        "flags": lambda: triton_lora.adapted_linear(x, ones(6, 4), (ones(5, 4), ones(6, 5)), ones(3)),
        "high": lambda: triton_lora.adapted_linear(x, ones(6, 4), (ones(5, 4), ones(6, 4)), flags),
        "scales": lambda: triton_linear.linear(x, Quantized(ones(6, 4).to(torch.int8), ones(3))),
        "values": lambda: triton_linear.linear(x, Quantized(ones(6, 4).double(), ones(6))),
    }
    with pytest.raises(TensorRefused, match=message):
        calls[case]()
