"""Weights in blocks: against gguf's own, the same bits as whole weights, and alike under every instruction set."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_rows import check_number_of_rows, with_threads
from row_invariance import drawn

from trimode.kernels import ops
from trimode.kernels.blocks import BYTES, FORMS, Blocks, Form, finite, from_blocks, joined_blocks, to_blocks
from trimode.kernels.native import build
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import torch_ops

PROGRAM = Path(__file__).with_name("products.cpp")
SETS: Final = {"x86-64": "sse2", "haswell": "avx2", "skylake-avx512": "avx512dq"}
"""Instruction sets by the compiler's name of a processor, and the feature that this one needs to run them."""
HERE: Final = [name for name, feature in SETS.items() if feature in ops.processor().split()]
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(params=[1, 2])
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    with with_threads(request.param):
        yield Native.load()


@each_form
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e4])
def test_blocks_are_those_of_gguf_and_so_are_whole_weights(form: Form, scale: float) -> None:
    weight = drawn(37, 96) * scale
    weight[3], weight[4, :32], weight[5, 40] = 0, 2.5, 0
    made, kind = to_blocks(weight, form), gguf.GGMLQuantizationType[form]
    np.testing.assert_array_equal(made.data.numpy(), gguf.quantize(weight.numpy(), kind))
    np.testing.assert_array_equal(from_blocks(made).numpy(), gguf.dequantize(made.data.numpy(), kind))
    assert (made.shape, made.nbytes) == ((37, 96), 37 * 3 * BYTES[form])


@each_form
@given(
    seed=st.integers(0, 999), outputs=st.integers(1, 150), inputs=st.integers(1, 140), rows=st.integers(1, 40),
)  # fmt: skip
@settings(deadline=None, derandomize=True, max_examples=40)
def test_products_have_the_bits_of_whole_weights(form: Form, seed: int, outputs: int, inputs: int, rows: int) -> None:
    """A whole matrix with one number that is no bf16 number is stored in fp32: another kernel, the same sums."""
    native, x = Native.load(), drawn(rows, inputs, seed=seed)
    blocks = to_blocks(drawn(outputs, inputs, seed=seed + 1), form)
    whole = torch.cat((from_blocks(blocks), torch.full((1, inputs), 1 / 3)))
    packed, exact = native.prepare(blocks), native.prepare(whole)
    assert (packed.form, exact.form) == (form, "F32")
    found = native.linear(x, packed)
    assert torch.equal(found, native.linear(x, exact)[:, :outputs])
    torch.testing.assert_close(found, torch_ops.linear(x, blocks), rtol=1e-4, atol=1e-4)
    ids = torch.arange(outputs).flip(0)
    assert torch.equal(native.lookup(packed, ids), from_blocks(blocks)[ids])
    assert torch.equal(native.lookup(exact, ids), whole[ids])


@each_form
def test_rows_do_not_depend_on_their_number(native: Native, form: Form) -> None:
    check_number_of_rows(native, native.prepare(to_blocks(drawn(200, 288, seed=1), form)))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e9])
@each_form
def test_weights_without_a_finite_scale_are_refused(form: Form, wrong: float) -> None:
    weight = drawn(3, 40)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match=r"\[3, 40\] has weights that are not finite or too large for a scale in fp16"):
        to_blocks(weight, form)


def test_blocks_are_joined_and_their_heads_are_looked_at() -> None:
    one, other = (to_blocks(drawn(rows, 40, seed=rows), "Q4_1") for rows in (3, 5))
    both = joined_blocks([one, other])
    assert torch.equal(from_blocks(both), torch.cat((from_blocks(one), from_blocks(other))))
    assert finite(both)
    both.data[2, 20:24] = torch.tensor([0, 0, 0, 0x7C], dtype=torch.uint8)  # a minimum of infinity
    assert not finite(both)
    assert finite(Blocks("Q4_0", torch.full((1, 18), 0x0F, dtype=torch.uint8), 32))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What products.cpp writes, by instruction set; `check`: it ended well, so its rows are invariant."""
    folder, kernels = tmp_path_factory.mktemp("products"), build.SOURCE.resolve().parent
    started = {}
    for name in HERE:
        binary = folder / name
        flags = [f"-march={name}", "-O1", "-std=c++17", "-pthread", "-w", f"-I{kernels}"]
        started[name] = subprocess.Popen([build.found(), *flags, str(PROGRAM), "-o", str(binary)])
    assert not any(one.wait() for one in started.values())
    return {name: subprocess.run([folder / name], check=True, capture_output=True).stdout for name in started}


@pytest.mark.parametrize("name", HERE)
def test_every_instruction_set_computes_the_same(written: dict[str, bytes], name: str) -> None:
    """To the last bit where a product and its sum are rounded once; without that instruction closely."""
    found, expected = (np.frombuffer(written[each], np.float32) for each in (name, HERE[-1]))
    if name == "x86-64":
        scale = np.maximum(np.abs(expected), 1.0)
        assert float(np.max(np.abs(found - expected) / scale)) < 1e-2
    else:
        np.testing.assert_array_equal(found, expected)
