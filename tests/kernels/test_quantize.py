"""Weights in eight bits: what rounding may change, and what it may not."""

from __future__ import annotations

import pytest
import torch
from devices import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.kernels.quantize import Precision, Quantized, dequantize, quantize

each_precision = pytest.mark.parametrize("precision", ["int8", "fp8"])
STEP: dict[Precision, float] = {"int8": 0.5 / 127, "fp8": 2**-4}
"""Largest error: int8 half a step of the row's range, fp8 half a step of the weight's own binade."""


@given(
    seed=st.integers(0, 999), outputs=st.integers(1, 9), inputs=st.integers(1, 40), power=st.integers(-30, 30),
    precision=st.sampled_from(["int8", "fp8"]),
)  # fmt: skip
@settings(deadline=None, derandomize=True, max_examples=60)
def test_weights_come_back_within_half_a_step(
    seed: int, outputs: int, inputs: int, power: int, precision: Precision
) -> None:
    weight = draw(outputs, inputs, seed=seed) * 2.0**power
    quantized = quantize(weight, precision)
    range_ = weight.abs().amax(1, keepdim=True)
    allowed = STEP[precision] * (range_ if precision == "int8" else weight.abs().clamp_min(range_ * 2**-6 / 448))
    assert ((dequantize(quantized, torch.float32) - weight).abs() <= allowed * 1.001).all()
    # Symmetric: the negated matrix is the negated values.
    assert torch.equal(quantize(-weight, precision).values.float(), -quantized.values.float())


@each_precision
def test_values_and_scales_are_what_the_kernels_read(precision: Precision) -> None:
    quantized = quantize(draw(6, 10).bfloat16(), precision)
    assert quantized.values.dtype == (torch.int8 if precision == "int8" else torch.float8_e4m3fn)
    assert (quantized.shape, quantized.scales.shape, quantized.scales.dtype) == ((6, 10), (6,), torch.float32)
    assert quantized.nbytes == 60 + 24
    largest = quantized.values.float().abs().amax(1)
    assert largest.tolist() == [127.0 if precision == "int8" else 448.0] * 6
    assert torch.equal(quantized.values.float().bfloat16().float(), quantized.values.float())


@each_precision
def test_zeros_stay_zeros(precision: Precision) -> None:
    weight = draw(3, 4)
    weight[1] = 0
    weight[2, 3] = 0
    back = dequantize(quantize(weight, precision), torch.float32)
    assert back[weight == 0].abs().sum() == 0
    assert back.isfinite().all()


@each_precision
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(precision: Precision, wrong: float) -> None:
    weight = draw(3, 4)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match=r"\[3, 4\] has weights that are not finite"):
        quantize(weight, precision)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'int4'; the formats are int8, fp8"):
        quantize(draw(2, 2), "int4")


def test_a_matrix_in_eight_bits_is_two_tensors() -> None:
    quantized = Quantized(torch.tensor([[2, -3]], dtype=torch.int8), torch.tensor([0.5]))
    assert dequantize(quantized, torch.bfloat16).tolist() == [[1.0, -1.5]]
