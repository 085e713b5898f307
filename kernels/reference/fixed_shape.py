"""Arithmetic whose bits depend on a row's own numbers only, whatever order of summation a library uses for a shape.

Knows tensors only. A BLAS chooses its kernel, and with it the order of a sum, by the shape of a call, so every call has
the same shape: rows go to `multiply`, the only call of the library, in tiles of a fixed size with the same memory
layout (contiguous, on a 64-byte boundary). A row's place in the tile could still matter; `agreement.py` checks that.

Sums and exponentials are composed of operations that IEEE 754 rounds in one way. So it does not matter which elements a
vector loop leaves to its tail, which depends on rows and threads, and for which torch may use another exp. Sums of one
row may be split over threads differently than those of many rows; a fixed tree of additions is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

TILE: Final = 8
"""Rows of each product with a weight: small, because one row costs as much as all of them."""
SCORED: Final = 32
"""Rows of each product of attention: many, because the number of calls dominates its cost."""
BOUNDARY: Final = 64
"""Alignment in bytes: a library may use other loads, and another order, at other alignments. Torch allocates at it."""


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies [n, k] by [k, m], or for K heads [K, n, k] by [K, k, m], by the library."""
    return torch.matmul(a, b)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiplies x [T, in] by weight [out, in] transposed -> [T, out], `TILE` rows per call."""
    columns = weight.T
    found = [multiply(_tile(x[first : first + TILE]), columns) for first in range(0, len(x), TILE)]
    if not found:
        return x.new_empty(0, len(weight))
    return (found[0] if len(found) == 1 else torch.cat(found))[: len(x)]


def _tile(rows: Tensor) -> Tensor:
    """Returns the rows if they fill a tile with the tiles' memory layout, else a copy padded with zeros."""
    if len(rows) == TILE and rows.is_contiguous() and rows.data_ptr() % BOUNDARY == 0:
        return rows
    tile = rows.new_zeros(TILE, rows.shape[1])
    tile[: len(rows)] = rows
    return tile


def paired(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies a [X, tiles or 1, K, R, k] by b [X, tiles, K, k, m] -> [X, tiles, K, R, m], `SCORED` rows per call.

    Each call covers K heads. K, k and m are the model's. One of k and m is a page, so that with `SCORED` rows all
    operands are aligned.
    """
    tiles, rows = b.shape[1], a.shape[3]
    cut = F.pad(a, (0, 0, 0, -rows % SCORED)).unflatten(3, (-1, SCORED)).movedim(2, 3).contiguous()
    chunks = cut.shape[2]
    lefts, rights = cut.flatten(0, 2).unbind(0), b.contiguous().flatten(0, 1).unbind(0)
    shared = cut.shape[1] < tiles
    found: list[Tensor] = [
        multiply(lefts[(at // tiles if shared else at) * chunks + chunk], right)
        for at, right in enumerate(rights)
        for chunk in range(chunks)
    ]
    wide: Tensor = torch.stack(found).unflatten(0, (len(a), tiles, chunks)).movedim(2, 3)
    return wide.flatten(3, 4)[..., :rows, :]


def total(x: Tensor) -> Tensor:
    """Sums over the last dimension, kept as 1, by adding halves: the order depends on the dimension's size alone."""
    size = x.shape[-1]
    while size > 1:
        half = 1 << ((size - 1).bit_length() - 1)
        more, rest = x[..., half:size], x[..., size - half : half]
        x = x[..., : size - half] + more
        x = torch.cat((x, rest), dim=-1) if rest.shape[-1] else x
        size = half
    return x


_SERIES: Final = (
    0.5000000120100, 0.16666665459, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4,
)  # fmt: skip
"""Coefficients of P in exp(r) = 1 + r + r^2 P(r), |r| <= log(2) / 2 (Cephes expf)."""
_LOG2_E: Final = 1.44269504088896341
_LOG_TWO: Final = (0.693359375, -2.12194440e-4)
"""log 2 in two parts, the first with so few bits that its product with an exponent is exact."""
_MAGIC: Final = 12582912.0
"""The number 1.5 * 2^23: adding it to a small number rounds that to an integer, which is then in the low bits."""
_LOWEST, _HIGHEST = -86.0, 88.0
"""Bounds between which no result is infinite or subnormal, which threads may or may not flush to zero."""
_CHUNK: Final = 1 << 16
"""Elements computed at a time, so that intermediate results stay in a cache."""


def exp(x: Tensor) -> Tensor:
    """Returns e to the power of x, fp32, to two units in the last place; 0 below -86, and above 88 its value at 88."""
    flat = x.reshape(-1)
    if flat.numel() <= _CHUNK:
        return _exp(flat).view(x.shape)
    return torch.cat([_exp(part) for part in flat.split(_CHUNK)]).view(x.shape)


def _exp(x: Tensor) -> Tensor:
    clamped = x.clamp(_LOWEST, _HIGHEST)
    shifted = (clamped * _LOG2_E).add_(_MAGIC)
    power = shifted - _MAGIC
    rest = clamped.sub_(power * _LOG_TWO[0]).sub_(power.mul_(_LOG_TWO[1]))
    y = rest * _SERIES[-1]
    for term in _SERIES[-2:0:-1]:
        y.add_(term).mul_(rest)
    y.add_(_SERIES[0]).mul_(rest * rest).add_(rest).add_(1)
    # Adding the power's low bits to the exponent field of fp32 multiplies by two to that power.
    bits = y.view(torch.int32).add_(shifted.view(torch.int32) << 23)
    return bits.view(torch.float32).masked_fill_(x < _LOWEST, 0.0)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The operations that attention is composed of: `paired`, `exp` and `total`, from here or from a library."""

    paired: Callable[[Tensor, Tensor], Tensor]
    exp: Callable[[Tensor], Tensor]
    total: Callable[[Tensor], Tensor]


FIXED: Final = Arithmetic(paired, exp, total)
