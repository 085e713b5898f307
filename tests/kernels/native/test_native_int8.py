"""Products of rows in int8 with weights in blocks: against whole numbers in numpy, row by row; what is refused.

What needs the instruction runs where the processor has it. test_native_blocks.py compares the instruction sets, of
which some have none; the refusals run everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_rows import check_number_of_rows, with_threads
from row_invariance import drawn
from torch import Tensor

from trimode.kernels import ops
from trimode.kernels.blocks import FORMS, Form, from_blocks, to_blocks
from trimode.kernels.layout import LowRank
from trimode.kernels.native import rounding
from trimode.kernels.native.rounding import NativeRounded

CPU, NAME = torch.device("cpu"), "native-int8"
FEATURES = rounding.ROUNDINGS[NAME].features
needs_instruction = pytest.mark.skipif(
    not set(FEATURES) & set(ops.processor().split()), reason=f"this processor has none of {', '.join(FEATURES)}"
)
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(params=[1, 2])
def kernels(request: pytest.FixtureRequest) -> Iterator[NativeRounded]:
    with with_threads(request.param):
        yield rounding.load(NAME)


def rounded_rows(x: Tensor) -> Tensor:
    """x [T, in] as int8 times a scale for every 32 inputs, in fp64: the largest of them is 127 or -127 scales."""
    pad = -x.shape[1] % 32
    parts = torch.nn.functional.pad(x, (0, pad)).view(x.shape[0], -1, 32)
    most = parts.abs().amax(-1, keepdim=True)
    by = torch.where(most > 0, 127 / most, torch.zeros_like(most))
    whole = (parts * by).round().double() * (most / 127).double()
    return whole.flatten(1)[:, : x.shape[1]]


@needs_instruction
@each_form
@given(seed=st.integers(0, 999), outputs=st.integers(1, 150), inputs=st.integers(1, 140), rows=st.integers(1, 40))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_products_are_those_of_rounded_rows(form: Form, seed: int, outputs: int, inputs: int, rows: int) -> None:
    kernels, x = rounding.load(NAME), drawn(rows, inputs, seed=seed)
    blocks = to_blocks(drawn(outputs, inputs, seed=seed + 1), form)
    packed = kernels.prepare(blocks)
    assert packed.form == form
    expected = (rounded_rows(x) @ from_blocks(blocks).double().T).float()
    torch.testing.assert_close(kernels.linear(x, packed), expected, rtol=1e-4, atol=1e-4)
    ids = torch.arange(outputs).flip(0)
    assert torch.equal(kernels.lookup(packed, ids), from_blocks(blocks)[ids])


@needs_instruction
@each_form
def test_rows_do_not_depend_on_their_number(kernels: NativeRounded, form: Form) -> None:
    check_number_of_rows(kernels, kernels.prepare(to_blocks(drawn(200, 300, seed=1), form)))


@needs_instruction
@each_form
def test_sums_of_a_block_are_exact(form: Form) -> None:
    """Rows of whole numbers up to 127, of which one is 127, are not rounded; then one block is one rounding."""
    numbers = np.random.default_rng(0)
    x = torch.from_numpy(numbers.integers(-127, 128, (9, 32))).float()
    x[:, 3] = 127
    blocks = to_blocks(drawn(70, 32, seed=3), form)
    exact = x.double() @ from_blocks(blocks).double().T
    found = rounding.load(NAME).linear(x, rounding.load(NAME).prepare(blocks))
    torch.testing.assert_close(found.double(), exact, rtol=3e-6, atol=1e-5)


@needs_instruction
def test_rows_of_zeros_and_rows_of_large_and_small_numbers(kernels: NativeRounded) -> None:
    x = torch.zeros(4, 64)
    x[1, 5], x[2, 40], x[3] = 1e30, 1e-30, drawn(64)
    blocks = to_blocks(drawn(20, 64, seed=4), "Q8_0")
    found, whole = kernels.linear(x, kernels.prepare(blocks)), from_blocks(blocks)
    assert not found[0].any()
    torch.testing.assert_close(found[1], 1e30 * whole[:, 5], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(found[2], 1e-30 * whole[:, 40], rtol=1e-5, atol=0.0)


@needs_instruction
def test_only_products_with_blocks_differ_from_native() -> None:
    kernels, why = ops.kernels(CPU, torch.float32, NAME)
    native, _ = ops.kernels(CPU, torch.float32, "native")
    assert (kernels.name, why) == (NAME, "asked for")
    x, low = drawn(7, 64), drawn(8, 64)
    ours, theirs = (made.prepare_adapter([LowRank(0, low, low)], len(low))[0].low for made in (kernels, native))
    assert torch.equal(kernels.linear(x, ours), native.linear(x, theirs))
    for weight in (low, low.bfloat16()):
        assert torch.equal(kernels.linear(x, kernels.prepare(weight)), native.linear(x, native.prepare(weight)))
    ops.check_forms(kernels, ["Q8_0"])
    with pytest.raises(ops.NativeUnavailable, match=r"and this model has none; quantize='int8' or 'int4' makes blocks"):
        ops.check_forms(kernels, [])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": torch.bfloat16}, "float32 on cpu, not for bfloat16 on cpu"),
        ({"precision": "fp8"}, "native kernels do not take weights in fp8; 'triton' and 'torch' do"),
    ],
)
def test_other_weights_and_devices_are_refused(options: dict[str, Any], why: str) -> None:
    asked: dict[str, Any] = {"device": CPU, "dtype": torch.float32, **options}
    with pytest.raises(ops.NativeUnavailable, match=why):
        ops.kernels(**asked, choice=NAME)


def test_a_processor_without_the_instruction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "processor", lambda: "flags : fpu avx2 avx512f")
    with pytest.raises(ops.NativeUnavailable, match="need avx512_vnni or avx_vnni, which this processor has not"):
        ops.kernels(CPU, torch.float32, NAME)


def test_a_compiler_without_the_instruction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        def multiplies_int8(self) -> int:
            return 0

    monkeypatch.setattr(rounding, "processor", lambda: "flags : fpu avx_vnni")
    monkeypatch.setattr(rounding, "library", Older)
    with pytest.raises(ops.NativeUnavailable, match=r"makes no avx512_vnni or avx_vnni .*; take g\+\+ 11"):
        ops.kernels(CPU, torch.float32, NAME)
