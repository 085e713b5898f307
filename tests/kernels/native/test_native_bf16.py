"""Products of bf16 numbers: against torch, in the documented order of the instruction, row by row; what is refused.

What needs the instruction runs where the processor has it; the refusals run everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from native_rows import with_threads
from row_invariance import drawn
from torch import Tensor

from trimode.kernels import ops
from trimode.kernels.layout import LowRank
from trimode.kernels.native import rounding
from trimode.kernels.native.rounding import NativeRounded

CPU = torch.device("cpu")
NAME, FEATURE = "native-bf16", "avx512_bf16"
needs_instruction = pytest.mark.skipif(
    FEATURE not in ops.processor().split(), reason=f"this processor has no {FEATURE}"
)
SIZES = [(1, 5), (2, 64), (15, 65), (16, 1), (17, 130), (95, 130), (96, 40), (256, 96), (768, 70)]


@pytest.fixture(params=[1, 2])
def kernels(request: pytest.FixtureRequest) -> Iterator[NativeRounded]:
    with with_threads(request.param):
        yield rounding.load(NAME)


def halves(*shape: int, seed: int = 1) -> Tensor:
    return drawn(*shape, seed=seed).bfloat16().float()


def normal(x: Tensor) -> Tensor:
    """Numbers too small for full precision as zeros of their sign."""
    return torch.where(x.abs() < torch.finfo(torch.float32).tiny, x * 0.0, x)


def in_order(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] times weight [out, in] as the instruction is documented: of two inputs the second one's product first.

    Products of bf16 numbers are exact in fp64, and so is their sum with an fp32 number of about their size.
    """
    pad = (0, x.shape[1] % 2)
    inputs, weights = (F.pad(normal(m).bfloat16(), pad).double() for m in (x, weight))
    total = torch.zeros(x.shape[0], weight.shape[0])
    for k in range(0, inputs.shape[1], 2):
        for i in (k + 1, k):
            total = normal((total.double() + inputs[:, i : i + 1] * weights[:, i]).float())
    return total


@needs_instruction
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_products_are_those_of_rounded_rows(kernels: NativeRounded, inputs: int, outputs: int) -> None:
    x, weight, base = drawn(41, inputs), halves(outputs, inputs), drawn(41, outputs, seed=2)
    matrix = kernels.prepare(weight)
    whole = kernels.linear(x, matrix)
    torch.testing.assert_close(whole, x.bfloat16().float() @ weight.T, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, kernels.linear(x.bfloat16().float(), matrix))
    assert torch.equal(kernels.linear(x, matrix, base.clone()), base + whole)
    for rows in range(1, 41):
        assert torch.equal(kernels.linear(x[:rows], matrix), whole[:rows]), rows
        assert torch.equal(kernels.linear(x[41 - rows :], matrix), whole[41 - rows :]), rows


@needs_instruction
@pytest.mark.parametrize("inputs", [1, 2, 7, 32, 61])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-37, 1e-39])
def test_sums_have_the_documented_order_to_the_last_bit(inputs: int, scale: float) -> None:
    kernels = rounding.load(NAME)
    x, weight = drawn(9, inputs) * scale, halves(70, inputs)
    found = kernels.linear(x, kernels.prepare(weight))
    assert torch.equal(found.view(torch.int32), in_order(x, weight).view(torch.int32))


@needs_instruction
def test_rows_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    kernels, step = rounding.load(NAME), 2.0**-7
    x = torch.tensor([[1 + step / 2], [1 + 3 * step / 2], [1 + step / 2 + 2.0**-20], [-1 - step / 2]])
    found = kernels.linear(x, kernels.prepare(torch.ones(1, 1)))
    assert found.flatten().tolist() == [1.0, 1 + 2 * step, 1 + step, -1.0]


@needs_instruction
def test_only_the_products_of_a_model_differ_from_native() -> None:
    kernels, why = ops.kernels(CPU, torch.float32, "native-bf16")
    native, _ = ops.kernels(CPU, torch.float32, "native")
    assert (kernels.name, why) == ("native-bf16", "asked for")
    x, weight = drawn(7, 64), halves(80, 64)
    assert not torch.equal(kernels.linear(x, kernels.prepare(weight)), native.linear(x, native.prepare(weight)))
    low = drawn(8, 64)
    ours, theirs = (made.prepare_adapter([LowRank(0, low, low)], len(low))[0].low for made in (kernels, native))
    assert torch.equal(kernels.linear(x, ours), native.linear(x, theirs))
    assert torch.equal(kernels.swiglu(x), native.swiglu(x))
    with pytest.raises(ops.NativeUnavailable, match=r"shape \[8, 64\] holds others; 'native' keeps them whole"):
        kernels.prepare(low)


def test_auto_never_takes_them() -> None:
    assert ops.kernels(CPU, torch.float32)[0].name == "native"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": torch.bfloat16}, "float32 on cpu, not for bfloat16 on cpu"),
        ({"device": torch.device("meta")}, "not for float32 on meta"),
        ({"precision": "int8"}, "native-bf16 kernels do not take weights in int8; 'native' and 'torch' do"),
    ],
)
def test_other_weights_and_devices_are_refused(options: dict[str, Any], why: str) -> None:
    asked: dict[str, Any] = {"device": CPU, "dtype": torch.float32, **options}
    with pytest.raises(ops.NativeUnavailable, match=why):
        ops.kernels(**asked, choice="native-bf16")


def test_a_processor_without_the_instruction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "processor", lambda: "flags : fpu avx512f avx512_vnni")
    with pytest.raises(ops.NativeUnavailable, match="need avx512_bf16, which this processor has not; 'native' does"):
        ops.kernels(CPU, torch.float32, "native-bf16")


def test_a_compiler_without_the_instruction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        def multiplies_bf16(self) -> int:
            return 0

    monkeypatch.setattr(rounding, "processor", lambda: f"flags : fpu {FEATURE}")
    monkeypatch.setattr(rounding, "library", Older)
    with pytest.raises(ops.NativeUnavailable, match="the compiler makes no avx512_bf16"):
        ops.kernels(CPU, torch.float32, "native-bf16")
