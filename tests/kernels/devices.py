"""Where Triton kernels are tested: in Triton's interpreter on the CPU, or compiled on a GPU under the marker `gpu`.

A process does one of the two: TRITON_INTERPRET is read when triton is imported. `tests/conftest.py` sets it to 1 where
there is no CUDA device; with one, `pytest -m gpu` compiles and TRITON_INTERPRET=1 interprets.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from triton import knobs

from trimode.kernels import tiles
from trimode.kernels.quantize import Quantized, quantize

INTERPRETED = bool(knobs.runtime.interpret)
DEVICES: list[Any] = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
on_each_device = pytest.mark.parametrize("device", DEVICES)
DTYPES = [torch.float32, torch.bfloat16]
ROWS = (1, 2, 3, 7, 16, 17, 33, 64, 65, 129)
"""Row counts on both sides of every tile, to be compared with a pass of 256 rows."""


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are split from 192 inputs on, so that splitting is tested with little arithmetic."""
    monkeypatch.setattr(tiles, "LEAST", 96)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """The same numbers for a seed on every device."""
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).to(device)


@contextmanager
def poisoned() -> Generator[None]:
    """Memory that torch.empty hands out is full of NaN: what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def gaps(tensor: Tensor) -> Tensor:
    """The same numbers in rows that lie apart, with NaN between them."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 24), float("nan"), device=tensor.device).to(tensor.dtype)
    wide[..., 8 : 8 + tensor.shape[-1]] = tensor
    return wide[..., 8 : 8 + tensor.shape[-1]]


def kept(weight: Tensor, precision: str) -> Tensor | Quantized:
    return weight if precision == "whole" else quantize(weight, "int8" if precision == "int8" else "fp8")


def close(found: Tensor, expected: Tensor) -> None:
    """Within a rounding of bf16, or within fp32's sums over the inputs."""
    assert found.dtype == expected.dtype
    tolerance = 2**-7 if found.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-4)
