"""What tests of native products share: threads for a while, and rows that do not depend on their number."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from row_invariance import drawn


@contextmanager
def with_threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_number_of_rows(kernels: Any, matrix: Any) -> None:
    """Asserts that rows have the bits that they have among 67, at the beginning and at the end."""
    x, base = drawn(67, matrix.inputs), drawn(67, matrix.outputs, seed=2)
    whole = kernels.linear(x, matrix)
    assert torch.equal(kernels.linear(x, matrix, base.clone()), base + whole)
    for rows in (*range(1, 30), 31, 32, 33, 64):
        assert torch.equal(kernels.linear(x[:rows], matrix), whole[:rows]), rows
        assert torch.equal(kernels.linear(x[67 - rows :], matrix), whole[67 - rows :]), rows
