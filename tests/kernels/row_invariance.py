"""Row invariance of every op: rows alone, few and many, first and last, at odd addresses.

As a program it checks the torch path with one thread and two, in all dtypes, and imports torch and kernels only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trimode.kernels.layout import PAGE, Layout
from trimode.kernels.reference import torch_ops

MOST = 67
SHAPES = ((100, 7), (256, 1024), (384, 129), (48, 40), (7, 33))
"""Inputs and outputs of products."""
PARTS = [(0, 1), (5, 6), (7, 8), (66, 67), (0, 2), (3, 6), (0, 4), (2, 7), (0, 7), (59, 67), (11, 24), (0, 33), (1, 34)]
"""First and last row of a call."""


def disagreements(kernels: Any, dtype: torch.dtype) -> list[str]:
    """Returns the op and rows of every difference; empty if all rows agree."""
    return list(_all(kernels, dtype))


def _all(kernels: Any, dtype: torch.dtype) -> Iterator[str]:
    for inputs, outputs in SHAPES:
        x, weight = drawn(MOST, inputs, dtype=dtype), drawn(outputs, inputs, dtype=dtype, seed=1)
        matrix = kernels.prepare(weight)
        yield from _differ(f"linear {inputs}x{outputs}", x, partial(_linear, kernels, matrix))
        yield from _differ(f"rms_norm {inputs}", x, partial(_rms_norm, kernels, weight[0]))
        both = drawn(MOST, 2 * inputs, dtype=dtype, seed=3) * 8
        yield from _differ(f"swiglu {inputs}", both, kernels.swiglu)
        same = x[:1].expand(MOST, -1)
        found = kernels.linear(same.contiguous(), matrix)
        if not torch.equal(found, found[:1].expand_as(found)):
            yield f"linear {inputs}x{outputs}: places of the same row"
    logits = drawn(MOST, 4099, seed=4)
    for top_p in (1.0, 0.9):
        yield from _differ(f"sample_rows {top_p}", logits, partial(_pick, kernels, top_p))
    for heads, groups, dim in ((6, 2, 16), (4, 1, 7)):
        yield from _attention(kernels, dtype, heads, groups, dim)


def _linear(kernels: Any, matrix: Any, rows: Tensor) -> Tensor:
    return kernels.linear(rows, matrix)  # type: ignore[no-any-return]


def _rms_norm(kernels: Any, scale: Tensor, rows: Tensor) -> Tensor:
    return kernels.rms_norm(rows, scale, 1e-5)  # type: ignore[no-any-return]


def _pick(kernels: Any, top_p: float, logits: Tensor) -> Tensor:
    """[R, 2]: tokens, and how sure they are."""
    banned, noise = torch.zeros(logits.shape[1], dtype=torch.bool), torch.zeros(1, logits.shape[1])
    return torch.stack(kernels.sample_rows(logits, banned, None, noise, 1.0, 0, top_p), dim=1)


def _differ(name: str, x: Tensor, op: Callable[[Tensor], Tensor]) -> Iterator[str]:
    whole = op(x)
    for first, last in PARTS:
        for shift in (0, 1):
            if not torch.equal(op(moved(x[first:last], shift)), whole[first:last]):
                yield f"{name}: rows {first}..{last - 1}, {shift} numbers off"


def _attention(kernels: Any, dtype: torch.dtype, heads: int, groups: int, dim: int) -> Iterator[str]:
    """Causal rows over three pages and those of a branch beside them, each with fewer others and fewer pages."""
    x = drawn(MOST, heads + 2 * groups, dim, dtype=dtype)
    keys = drawn(4, groups, dim, PAGE, dtype=dtype, seed=1)
    values = drawn(4, groups, PAGE, dim, dtype=dtype, seed=2)

    def run(first: int, last: int, own: bool, pages: int, shift: int = 0) -> Tensor:
        count = last - first
        nothing = torch.zeros(count, dtype=torch.int64)
        seen = torch.full((count,), 70) if own else torch.arange(first, last) + 50
        beside = torch.arange(1, count + 1) if own else nothing
        layout = Layout(torch.arange(pages)[None], nothing, seen, nothing, beside, nothing - 1)
        return kernels.attention(moved(x[first:last], shift), heads, keys, values, layout)  # type: ignore[no-any-return]

    for own in (False, True):
        whole = run(0, MOST, own, 4)
        for first, last in PARTS:
            if own and first:
                continue
            for pages, shift in ((4, 0), (2, 1)):
                if not torch.equal(run(first, last, own, pages, shift), whole[first:last]):
                    yield f"attention {heads}/{groups}x{dim}, own keys {own}: rows {first}..{last - 1}, {pages} pages"


def moved(x: Tensor, numbers: int) -> Tensor:
    """The same rows, so many numbers behind a boundary."""
    if not numbers:
        return x
    flat = x.new_empty(x.numel() + numbers)
    place = flat[numbers:].view(x.shape)
    place.copy_(x)
    return place


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


if __name__ == "__main__":
    wrong: list[str] = []
    for count in (1, 2):
        torch.set_num_threads(count)
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            wrong += [f"{kind}, {count} threads: {line}" for line in disagreements(torch_ops, kind)]
    print("\n".join(wrong) or "all rows agree")
    sys.exit(bool(wrong))
