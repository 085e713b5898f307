"""Every op in plain torch, written to be obviously right. Knows tensors only.

On CPU these are also what runs. Their results are *row-invariant*: a row's value does not depend, to the last bit, on
how many rows ride along. Matrix products get there by padding the row count to a multiple of `row_tile` (below that the
BLAS picks other kernels for other row counts), attention by walking keys in tiles of `PAGE` at fixed positions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import block
from .grouping import groups
from .layout import PAGE, Layout
from .quantize import Quantized, dequantize

name = "torch"
row_tile = 4
"""Rows of a pass are padded to a multiple of it."""
queued = False
"""See `ops.Kernels`."""


def linear(x: Tensor, weight: Tensor | Quantized, onto: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, added to `onto` if given -> [T, out].

    Row-invariant for `in` a multiple of 4. A weight in eight bits is the matrix that it stands for, in x's dtype.
    """
    if isinstance(weight, Quantized):
        weight = dequantize(weight, x.dtype)
    rows = x.shape[0]
    short = -rows % row_tile
    padded = F.pad(x, (0, 0, 0, short)) if short and not x.requires_grad else x
    y = F.linear(padded, weight)[:rows]
    return y if onto is None else onto + y


def prepare(weight: Tensor) -> Tensor:
    """A matrix as `linear` of this module takes it."""
    return weight


prepare_adapter = prepare
"""The same for a matrix of an adapter, which no implementation rounds."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [T, E] / rms(x) * weight [E], the mean square in fp32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [T, I].

    Spelled out, because torch's fused silu computes the tail of a vector loop with another exp: which elements are tail
    depends on the number of rows and threads. Under autograd the fused one, whose gradient is finite everywhere.
    """
    if gate.requires_grad:
        return F.silu(gate) * up
    wide = gate.float()
    return (wide / (1 + torch.exp(-wide))).to(gate.dtype) * up


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


def attention(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """What each row of the pass sees, mixed: x, keys and values as in `keep` -> [T, queries, D].

    Rows of like shape go together: trunks over their pages, branches over pages and themselves.
    """
    if "groups" not in layout.cache:
        layout.cache["groups"] = groups(layout)
    q, k, v = x.split([queries, keys.shape[1], keys.shape[1]], dim=1)
    out = torch.zeros_like(q)
    for group in layout.cache["groups"]:
        own = None if group.own_seen is None else (k[group.index], v[group.index], group.own_seen)
        mixed = attend(q[group.index], keys, values, group.table, group.seen, own)
        out[group.index.flatten()[group.real]] = mixed.flatten(0, 2)[group.real]
    return out


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    seen: Tensor,
    own: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention over paged keys and values, and over rows of one's own: q [N, B, L, H, D] -> [N, B, L, H, D].

    N requests of B branches of L rows. table [N, tiles] names each request's pages in order; row (n, b, l) sees the
    first seen[n, b, l] positions there. `own`: keys and values [N, B, L, K, D] beside the pages, of which the row sees
    the first own_seen[n, b, l] of its own branch. No row may see nothing.
    """
    n, branches, length, heads, dim = q.shape
    kv = keys.shape[1]
    share = heads // kv
    packed = (q * dim**-0.5).reshape(n, branches * length, kv, share, dim).transpose(1, 2).flatten(2, 3)
    rows = seen.flatten(1).repeat_interleave(share, dim=1)
    part = _partial(packed, keys[table], values[table], rows)
    if own is None:
        out = part.mixed / part.total
    else:
        packed = packed.unflatten(2, (branches, -1)).transpose(1, 2).flatten(0, 1)
        rows = own[2].flatten(0, 1).repeat_interleave(share, dim=1)
        beside = _partial(packed, _tiled(own[0]).transpose(-1, -2), _tiled(own[1]), rows)
        out = part.per_branch(branches).joined(beside)
        out = out.unflatten(0, (n, branches)).transpose(1, 2)
    out = out.reshape(n, kv, branches, length, share, dim).permute(0, 2, 3, 1, 4, 5)
    return out.reshape(n, branches, length, heads, dim).to(q.dtype)


@dataclass(frozen=True, slots=True)
class _Partial:
    """Softmax sums over some keys, scaled by exp(-top): top and total [X, K, R, 1], mixed values [X, K, R, D]."""

    top: Tensor
    total: Tensor
    mixed: Tensor

    def per_branch(self, branches: int) -> _Partial:
        """[N, K, B * R, ...] -> [N * B, K, R, ...]."""
        parts = (self.top, self.total, self.mixed)
        return _Partial(*(x.unflatten(2, (branches, -1)).transpose(1, 2).flatten(0, 1) for x in parts))

    def joined(self, other: _Partial) -> Tensor:
        """The attention output over the keys of both."""
        top = torch.maximum(self.top, other.top)
        mine, theirs = torch.exp(self.top - top), torch.exp(other.top - top)
        mixed: Tensor = self.mixed * mine + other.mixed * theirs
        return mixed / (self.total * mine + other.total * theirs)


def _partial(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> _Partial:
    """q [X, K, R, D] over k [X, tiles, K, D, PAGE] and v [.., PAGE, D]; row r sees seen[x, r] keys, maybe none."""
    rows, tiles = q.shape[2], k.shape[1]
    short = -rows % row_tile
    q, seen = F.pad(q, (0, 0, 0, short)), F.pad(seen, (0, short))
    scores = (q[:, None] @ k).float()
    at = torch.arange(tiles * PAGE, device=q.device).view(1, tiles, 1, 1, PAGE)
    scores = scores.masked_fill(at >= seen[:, None, None, :, None], float("-inf"))
    top = scores.amax(dim=(1, 4), keepdim=True).clamp_min(-1e30)
    weights = torch.exp(scores - top)
    # cumsum adds tile after tile: a tile that is wholly hidden adds exact zeros, however many follow.
    total = weights.sum(-1, keepdim=True).cumsum(1)[:, -1]
    mixed = (weights.to(v.dtype) @ v).float().cumsum(1)[:, -1]
    return _Partial(top[:, 0, :, :rows], total[:, :, :rows], mixed[:, :, :rows])


def _tiled(x: Tensor) -> Tensor:
    """[N, B, L, K, D] -> [N * B, tiles, K, PAGE, D], padded with zeros."""
    x = torch.constant_pad_nd(x, (0, 0, 0, 0, 0, -x.shape[2] % PAGE))
    tiles: Tensor = x.flatten(0, 1).unflatten(1, (-1, PAGE))
    return tiles.transpose(2, 3)


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
    confidence = torch.exp(wide.gather(-1, tokens[:, None])[:, 0] - wide.logsumexp(-1))
    return tokens, confidence


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
        probability = ordered.softmax(-1)
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
