"""Rows have the same bits in any batch, whatever order a library sums in, and on every code path of these libraries.

A replacement of the library's product sums in another order for each number of rows and threads. Other instruction sets
are selected by environment variables, which libraries read when they are loaded, so each runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from row_invariance import disagreements
from torch import Tensor

from trimode.kernels import quantize
from trimode.kernels.reference import fixed_shape, torch_ops


def shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def unsteady(a: Tensor, b: Tensor) -> Tensor:
    """The product, summed in an order that a call's rows, batch and threads decide."""
    rows = 1
    for size in a.shape[:-1]:
        rows = rows * 1009 + size
    order = shuffled(a.shape[-1], rows * 31 + torch.get_num_threads())
    found = torch.zeros((), dtype=torch.float32)
    for part in order.split(5):
        found = found + (a[..., part].float()[..., None] * b[..., None, part, :].float()).sum(-2)
    return found.to(a.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_agree_whatever_order_the_library_takes(
    threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patched where torch has it, so that the test knows nothing of how the ops call it."""
    for home, names in ((torch, ("matmul", "mm", "bmm")), (Tensor, ("__matmul__", "matmul"))):
        for name in names:
            monkeypatch.setattr(home, name, unsteady)
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, weight: unsteady(x, weight.T))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert not torch.equal(unsteady(ones(3), ones(3).T)[:1], unsteady(ones(3)[:1], ones(3).T))
        assert disagreements(torch_ops, dtype) == []
    finally:
        torch.set_num_threads(before)


def ones(rows: int) -> Tensor:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "setting",
    [
        "ATEN_CPU_CAPABILITY=default",
        "ATEN_CPU_CAPABILITY=avx2",
        "MKL_ENABLE_INSTRUCTIONS=SSE4_2",
        "MKL_ENABLE_INSTRUCTIONS=AVX2",
        "ONEDNN_MAX_CPU_ISA=AVX2",
    ],
)
def test_rows_agree_on_every_path_that_libraries_have_here(setting: str) -> None:
    """All three dtypes with one thread and two, in one process.

    A library reads which instructions it may use when it is loaded, but the number of threads at each call; and of
    the two seconds of a process one is the import of torch.
    """
    name, value = setting.split("=")
    here = Path(__file__).parent
    path = os.pathsep.join((str(here), str(here.parents[1] / "src")))
    done = subprocess.run(
        [sys.executable, str(here / "row_invariance.py")],
        env={**os.environ, name: value, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "all rows agree"), done.stdout + done.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 33, 64, 384, 1000])
def test_a_total_is_the_sum(size: int) -> None:
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(fixed_shape.total(x), x.sum(-1, keepdim=True), rtol=1e-5, atol=1e-5)


def test_exp_is_right_to_its_last_places_and_zero_where_it_would_be_subnormal() -> None:
    x = torch.linspace(-86, 88, 400_001)
    exact = torch.exp(x.double())
    assert float(((fixed_shape.exp(x).double() - exact).abs() / exact).max()) < 2.0**-22
    ends = torch.tensor([0.0, -86.5, -1e30, float("-inf"), 1e30, float("nan")])
    found = fixed_shape.exp(ends)
    assert found[:4].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert 1e38 < float(found[4]) < float("inf")
    assert found[5].isnan()


def test_exp_of_an_element_does_not_depend_on_how_many_there_are() -> None:
    x = torch.randn(70_001, generator=torch.Generator().manual_seed(1)) * 20
    whole = fixed_shape.exp(x)
    for count in (1, 3, 17, 65_535, 65_537):
        assert torch.equal(fixed_shape.exp(x[-count:]), whole[-count:])


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_rows_agree_on_weights_in_eight_bits(precision: quantize.Precision) -> None:
    weight = quantize.quantize(torch.randn(130, 96, generator=torch.Generator().manual_seed(2)), precision)
    x = torch.randn(33, 96, generator=torch.Generator().manual_seed(3)).bfloat16()
    whole = torch_ops.linear(x, weight)
    for rows in range(1, 33):
        assert torch.equal(torch_ops.linear(x[:rows], weight), whole[:rows])
        assert torch.equal(torch_ops.linear(x[-rows:], weight), whole[-rows:])


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("tiles", [1, 3])
def test_products_in_tiles_are_the_products(rows: int, tiles: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 20, generator=draw), torch.randn(7, 20, generator=draw)
    torch.testing.assert_close(fixed_shape.product(x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)
    if rows:
        q, k = torch.randn(2, tiles, 3, rows, 8, generator=draw), torch.randn(2, 3, 3, 8, 64, generator=draw)
        torch.testing.assert_close(fixed_shape.paired(q, k), q @ k, rtol=1e-5, atol=1e-5)
