"""Keyed noise: standard Gumbel numbers as a pure function of (seed, position, token), the same bits on every machine.

Knows tensors only. Philox4x32-10 gives the random bits (Salmon et al., SC 2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs Philox4x32-10 (Salmon et al., SC 2011) on int64 tensors that hold 32-bit words."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        # int64 products wrap, but their bits are the 64-bit product's; the mask removes the sign of the shift.
        first, second = a * _PHILOX_M[0], c * _PHILOX_M[1]
        a, b, c, d = (
            ((second >> 32) & _WORD) ^ b ^ low,
            second & _WORD,
            ((first >> 32) & _WORD) ^ d ^ high,
            first & _WORD,
        )
        low, high = (low + _PHILOX_W[0]) & _WORD, (high + _PHILOX_W[1]) & _WORD
    return a, b, c, d


def gumbel(seed: int, positions: Tensor, vocab_size: int) -> Tensor:
    """Returns [P, V] fp32 standard Gumbel noise, a pure function of (seed, position, token). positions [P] int64."""
    block = torch.arange(-(-vocab_size // 4), device=positions.device)
    zero = torch.zeros_like(positions)[:, None] + torch.zeros_like(block)
    where = positions[:, None]
    words = philox((zero + block, zero, zero + (where & _WORD), zero + (where >> 32)), (seed & _WORD, seed >> 32))
    # 23 random bits plus a half: never 0, never 1, exact in fp32.
    uniform = ((torch.stack(words, dim=-1).flatten(1) >> 9).float() + 0.5) * 2.0**-23
    return -log(-log(uniform[:, :vocab_size]))


LOG_SERIES = (
    0.333333283662796, -0.25000619888305664, 0.20001423358917236, -0.16629745066165924, 0.14201553165912628,
    -0.13103213906288147, 0.12740786373615265, -0.07750998437404633,
)  # fmt: skip
"""Coefficients of P in log(1 + f) = f - f^2 / 2 + f^3 P(f), as fp32; fitted for sqrt(1/2) <= 1+f < sqrt(2) to 1e-8."""
LOG_TWO = (0.693359375, -2.12194440e-4)
"""log 2 in two parts, the first with so few bits that its product with an exponent is exact."""
SQRT_HALF_BITS = 0x3F3504F3


def log(x: Tensor) -> Tensor:
    """Returns the natural logarithm of normal positive fp32 numbers.

    It replaces torch.log, whose last bits depend on the machine. Every operation here is rounded in the same way
    everywhere, so noise has the same bits wherever it is computed.
    """
    bits = x.contiguous().view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1
    power, square = exponent.float(), f * f
    y = f * LOG_SERIES[-1]
    for term in LOG_SERIES[-2:0:-1]:
        y.add_(term).mul_(f)
    y.add_(LOG_SERIES[0]).mul_(f * square)
    y.add_(power * LOG_TWO[1]).sub_(square * 0.5)
    return (f + y) + power * LOG_TWO[0]
