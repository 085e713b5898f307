"""Every op in plain torch, written to be obviously right. Knows tensors only.

On CPU these are also what runs. Their results are *row-invariant*: a row's value does not depend, to the last bit, on
how many rows ride along. They get there by what `fixed` has: library calls of one shape, sums in an order of their own,
attention over tiles of `PAGE` keys at fixed positions. What is neither a sum nor an exponential here is single
additions, products, quotients and roots, which IEEE 754 rounds in one way, in a vector and in its tail.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import block
from ..layout import PAGE, Layout
from ..quantize import Quantized, dequantize
from . import attend, fixed_shape

name = "torch"
row_tile = 1
"""A pass's rows need no padding: products pad theirs."""
queued = False
exact = True
"""See `ops.Kernels`."""


def linear(x: Tensor, weight: Tensor | Quantized, onto: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, added to `onto` if given -> [T, out].

    A weight in eight bits is the matrix that it stands for, in x's dtype. Under autograd one call of the library, whose
    rows need not agree in other company.
    """
    if isinstance(weight, Quantized):
        weight = dequantize(weight, x.dtype)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y = F.linear(x, weight) if learns else fixed_shape.product(x, weight)
    return y if onto is None else onto + y


def prepare(weight: Tensor) -> Tensor:
    """A matrix as `linear` of this module takes it."""
    return weight


prepare_adapter = prepare
"""The same for a matrix of an adapter, which no implementation rounds."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [T, E] / rms(x) * weight [E], the mean square in fp32; under autograd summed by the library."""
    wide = x.float()
    square = wide * wide
    mean = square.mean(-1, keepdim=True) if x.requires_grad else fixed_shape.total(square) / x.shape[-1]
    wide = wide * torch.rsqrt(mean + eps)
    return weight * wide.to(x.dtype)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [T, I]. Under autograd torch's own, whose gradient is finite everywhere."""
    if gate.requires_grad:
        return F.silu(gate) * up
    wide = gate.float()
    return (wide / (1 + fixed_shape.exp(-wide))).to(gate.dtype) * up


def swiglu(both: Tensor) -> Tensor:
    """[T, 2 I], gate and up side by side -> [T, I]."""
    gate, up = both.chunk(2, dim=-1)
    return silu_mul(gate, up)


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor, heads: int, queries: int, scale: Tensor | None) -> None:
    """Turns the first `heads` of x [T, N, D] in place by cos and sin [T, D]; scales the first `queries` by [T]."""
    x[:, :heads] = rotate(x[:, :heads], cos[:, None], sin[:, None])
    if scale is not None:
        x[:, :queries] *= scale[:, None, None].to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-rotation layout: x [T, H, D], cos and sin [T, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


forward = partial(block.forward, sys.modules[__name__])
"""A pass by the ops of this module; see `block.forward`."""
choose = partial(block.choose, sys.modules[__name__])
"""Tokens by `pick` of this module; see `block.choose`."""


def keep(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> None:
    """Writes the pass's keys and values into one layer's pages: keys [pages, K, D, PAGE], values [pages, K, PAGE, D].

    x [T, queries + 2 K, D] holds queries, keys and values.
    """
    if "kept" not in layout.cache:
        rows = (layout.slot >= 0).nonzero()[:, 0]
        layout.cache["kept"] = rows, layout.slot[rows] // PAGE, layout.slot[rows] % PAGE
    rows, pages, offsets = layout.cache["kept"]
    _, k, v = x[rows].split([queries, keys.shape[1], keys.shape[1]], dim=1)
    keys[pages, :, :, offsets] = k
    values[pages, :, offsets] = v


attention = partial(attend.attention, fixed_shape.FIXED)
"""What each row of the pass sees, mixed; see `attend.attention`."""


def pick(
    logits: Tensor,
    banned: Tensor,
    allowed: Tensor | None,
    noise: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """The head epilogue: (tokens [R] int64, confidence [R] fp32) of logits [R, V].

    tokens = argmax of masked logits at temperature 0, else of filtered(masked logits / T) + noise [R, V]. `banned` [V]
    bool is never chosen; `allowed` [R, ceil(V / 32)] int32 is the grammar's bit mask. Confidence is the token's
    probability at temperature 1 among the allowed tokens, banned ones included in the sum (nld.md §8.6).
    """
    wide = logits.float()
    if allowed is not None:
        wide = wide.masked_fill(~unpack_mask(allowed, wide.shape[-1]), float("-inf"))
    scores = wide.masked_fill(banned, float("-inf"))
    if noise is not None:
        scores = filtered(scores / temperature, top_k, top_p) + noise
    tokens = scores.argmax(-1)
    top = wide.amax(-1, keepdim=True)
    chosen = fixed_shape.exp(wide.gather(-1, tokens[:, None]) - top)
    return tokens, (chosen / fixed_shape.total(fixed_shape.exp(wide - top)))[:, 0]


def unpack_mask(mask: Tensor, size: int) -> Tensor:
    """[R, W] int32 bit mask -> [R, size] bool."""
    bits = torch.arange(32, device=mask.device, dtype=torch.int32)
    return ((mask[..., None] >> bits) & 1).bool().flatten(-2)[..., :size]


def filtered(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """`scores` [R, V] with -inf outside the top_k best and outside the smallest set whose probability reaches top_p."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k, dim=-1).values[:, -1:], float("-inf"))
    if top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        weights = fixed_shape.exp(ordered - ordered[:, :1])
        probability = weights / fixed_shape.total(weights)
        # A running sum has one order: each row's numbers, one after the other.
        beyond = probability.cumsum(-1) - probability >= top_p
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), float("-inf"))
    return scores


_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al., SC 2011) over int64 tensors that hold 32-bit words."""
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
    """[P, V] fp32 standard Gumbel noise, a pure function of (seed, position, token). positions [P] int64."""
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
"""P in log(1 + f) = f - f^2 / 2 + f^3 P(f), fitted for sqrt(1/2) <= 1 + f < sqrt(2) to 1e-8; each is an fp32 number."""
LOG_TWO = (0.693359375, -2.12194440e-4)
"""log 2 in two parts, the first with so few bits that its product with an exponent is exact."""
SQRT_HALF_BITS = 0x3F3504F3


def log(x: Tensor) -> Tensor:
    """The natural logarithm of normal positive fp32 numbers.

    Not torch's, whose last bits depend on the machine: noise has the same bits wherever it is drawn, because each of
    these operations is rounded alike everywhere.
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
