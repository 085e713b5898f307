"""Gumbel noise in Triton with exactly the bits of `reference.gumbel`. Knows seeds, positions and token ids.

The random words are integers; the logarithms are `reference.log`, operation by operation. Both need kernels in which no
multiplication is fused with an addition: every kernel that calls `noise_of` has to be launched with `launch`.
"""

from __future__ import annotations

import typing
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_tensor
from ..reference.noise import LOG_SERIES, LOG_TWO, SQRT_HALF_BITS
from .numerics import launch

_TILE: Final = 1024
_SERIES: tl.constexpr = tl.constexpr(LOG_SERIES)
_TWO: tl.constexpr = tl.constexpr(LOG_TWO)
_SQRT_HALF: tl.constexpr = tl.constexpr(SQRT_HALF_BITS)


def gumbel(seed: int, positions: Tensor, vocab_size: int) -> Tensor:
    """Returns `reference.gumbel` on the device of positions [P] int64, which must be contiguous.

    Raises TensorRefused.
    """
    check_tensor("positions", positions, (None,), (torch.int64,))
    out = torch.empty(positions.shape[0], vocab_size, dtype=torch.float32, device=positions.device)
    if out.numel():
        seeds = torch.full((1,), seed - (seed >> 63 << 64), dtype=torch.int64, device=positions.device)
        grid = positions.shape[0], -(-vocab_size // _TILE)
        _draw[grid](seeds, positions, out, vocab_size, **launch(4, TILE=_TILE))
    return out


@triton.jit
def _draw(seeds: typing.Any, positions: typing.Any, out: typing.Any, vocab: typing.Any, TILE: tl.constexpr) -> None:
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = tile * TILE + tl.arange(0, TILE // 4)[:, None] * 4 + tl.arange(0, 4)[None]
    noise = noise_of(tl.load(seeds), tl.load(positions + row), tile * (TILE // 4), TILE)
    tl.store(out + row * vocab + token, noise, mask=token < vocab)


@triton.jit
def noise_of(seed: typing.Any, position: typing.Any, block: typing.Any, TILE: tl.constexpr) -> typing.Any:
    """Returns the noise [TILE / 4, 4] of the tokens from 4 * block on; seed and position int64."""
    blocks = (block + tl.arange(0, TILE // 4)).to(tl.uint32)
    zero = tl.zeros_like(blocks)
    low, high = zero + (position & 0xFFFFFFFF).to(tl.uint32), zero + (position >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, blocks, zero, low, high)
    column = tl.arange(0, 4)[None]
    even, odd = tl.where(column < 2, a[:, None], c[:, None]), tl.where(column < 2, b[:, None], d[:, None])
    words = tl.where(column % 2 == 0, even, odd)
    uniform = ((words >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -_log(-_log(uniform))


@triton.jit
def _log(x: typing.Any) -> typing.Any:
    """Returns `reference.log`."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - _SQRT_HALF) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    power, square = exponent.to(tl.float32), f * f
    y = f * _SERIES[7]
    y = (((y + _SERIES[6]) * f + _SERIES[5]) * f + _SERIES[4]) * f
    y = (((y + _SERIES[3]) * f + _SERIES[2]) * f + _SERIES[1]) * f
    y = (y + _SERIES[0]) * (f * square)
    y = (y + power * _TWO[1]) - square * 0.5
    return (f + y) + power * _TWO[0]
