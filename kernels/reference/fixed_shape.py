"""Arithmetic whose bits depend on a row's own numbers only, whatever order a library takes for a shape.

Knows tensors only. A BLAS chooses its kernel, and with it the order of a sum, by the shape of a call, so a call never
has another shape: rows go to `multiply`, the one door to the library, in tiles of a fixed size that lie alike in memory
(contiguous, on a 64-byte boundary). What a row could still feel is its place in the tile; the self-check looks there.

Sums and exponentials are spelled out in operations that IEEE 754 rounds in one way. So it does not matter which
elements a vector loop leaves to its tail, which depends on rows and threads, and for which torch may have another exp.
Sums of one row may be split over threads differently than those of many; a tree of additions may not.
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
"""Rows of each product of attention: many, because there the number of calls is what costs."""
BOUNDARY: Final = 64
"""Bytes: a library may take other loads, and another order, for numbers that lie otherwise. Torch allocates so."""


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The library's product: [n, k] by [k, m], or as many of them as there are heads, [K, n, k] by [K, k, m]."""
    return torch.matmul(a, b)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] by weight [out, in] transposed -> [T, out], `TILE` rows a call."""
    columns = weight.T
    found = [multiply(_tile(x[first : first + TILE]), columns) for first in range(0, len(x), TILE)]
    if not found:
        return x.new_empty(0, len(weight))
    return (found[0] if len(found) == 1 else torch.cat(found))[: len(x)]


def _tile(rows: Tensor) -> Tensor:
    """The rows themselves where they fill a tile and lie as each tile lies, else a copy behind which zeros follow."""
    if len(rows) == TILE and rows.is_contiguous() and rows.data_ptr() % BOUNDARY == 0:
        return rows
    tile = rows.new_zeros(TILE, rows.shape[1])
    tile[: len(rows)] = rows
    return tile


def paired(a: Tensor, b: Tensor) -> Tensor:
    """a [X, tiles or 1, K, R, k] by b [X, tiles, K, k, m] -> [X, tiles, K, R, m], `SCORED` rows of K heads a call.

    K, k and m are the model's. One of k and m is a page, so that with `SCORED` rows everything lies on a boundary.
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
    """The sum over the last dimension, which stays as 1: halves are added to halves, in an order of its size alone."""
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
"""P in exp(r) = 1 + r + r^2 P(r), |r| <= log(2) / 2 (Cephes expf)."""
_LOG2_E: Final = 1.44269504088896341
_LOG_TWO: Final = (0.693359375, -2.12194440e-4)
"""log 2 in two parts, the first with so few bits that its product with an exponent is exact."""
_MAGIC: Final = 12582912.0
"""1.5 * 2^23: adding it to a small number rounds that to an integer, which is then in the low bits."""
_LOWEST, _HIGHEST = -86.0, 88.0
"""Between them no result is subnormal, which threads may flush to zero or not, or infinite."""
_CHUNK: Final = 1 << 16
"""Elements at a time: what is between two operations stays in a cache."""


def exp(x: Tensor) -> Tensor:
    """e to the power of x, fp32, to two units in the last place; 0 below -86, and above 88 what it is there."""
    flat = x.reshape(-1)
    if flat.numel() <= _CHUNK:
        return _exp(flat).view(x.shape)
    return torch.cat([_exp(part) for part in flat.split(_CHUNK)]).view(x.shape)


def _exp(x: Tensor) -> Tensor:
    held = x.clamp(_LOWEST, _HIGHEST)
    shifted = (held * _LOG2_E).add_(_MAGIC)
    power = shifted - _MAGIC
    rest = held.sub_(power * _LOG_TWO[0]).sub_(power.mul_(_LOG_TWO[1]))
    y = rest * _SERIES[-1]
    for term in _SERIES[-2:0:-1]:
        y.add_(term).mul_(rest)
    y.add_(_SERIES[0]).mul_(rest * rest).add_(rest).add_(1)
    # The power's low bits, moved to where fp32 keeps its exponent, multiply by two to that power.
    bits = y.view(torch.int32).add_(shifted.view(torch.int32) << 23)
    return bits.view(torch.float32).masked_fill_(x < _LOWEST, 0.0)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What attention is made of: `paired`, `exp` and `total`, these or a library's own."""

    paired: Callable[[Tensor, Tensor], Tensor]
    exp: Callable[[Tensor], Tensor]
    total: Callable[[Tensor], Tensor]


FIXED: Final = Arithmetic(paired, exp, total)
