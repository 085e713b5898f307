"""Attention over paged keys and values in plain torch, by tiles of `PAGE` keys at fixed positions.

Knows tensors and layouts. Does not know how products, exponentials and sums are computed: they are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layout import PAGE, Layout
from .fixed_shape import Arithmetic
from .grouping import groups


def attention(by: Arithmetic, x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """Attends from each row of the pass to what it sees: x, keys and values as in `reference.keep` -> [T, queries, D].

    Rows of the same shape are computed together: trunks over their pages, branches over pages and themselves.
    """
    if "groups" not in layout.cache:
        layout.cache["groups"] = groups(layout)
    q, k, v = x.split([queries, keys.shape[1], keys.shape[1]], dim=1)
    out = torch.zeros_like(q)
    for group in layout.cache["groups"]:
        own = None if group.own_seen is None else (k[group.index], v[group.index], group.own_seen)
        mixed = attend(by, q[group.index], keys, values, group.table, group.seen, own)
        out[group.index.flatten()[group.real]] = mixed.flatten(0, 2)[group.real]
    return out


def attend(
    by: Arithmetic,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    seen: Tensor,
    own: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Attends over paged keys and values, and over the rows' own: q [N, B, L, H, D] -> [N, B, L, H, D].

    N requests of B branches of L rows. table [N, tiles] lists each request's pages in order; row (n, b, l) sees the
    first seen[n, b, l] positions there. `own`: keys and values [N, B, L, K, D] in addition to the pages, of which the
    row sees the first own_seen[n, b, l] of its own branch. Every row must see something.
    """
    n, branches, length, heads, dim = q.shape
    kv = keys.shape[1]
    share = heads // kv
    packed = (q * dim**-0.5).reshape(n, branches * length, kv, share, dim).transpose(1, 2).flatten(2, 3)
    rows = seen.flatten(1).repeat_interleave(share, dim=1)
    part = _partial(by, packed, keys[table], values[table], rows)
    if own is None:
        out = part.mixed / part.total
    else:
        packed = packed.unflatten(2, (branches, -1)).transpose(1, 2).flatten(0, 1)
        rows = own[2].flatten(0, 1).repeat_interleave(share, dim=1)
        own_part = _partial(by, packed, _tiled(own[0]).transpose(-1, -2), _tiled(own[1]), rows)
        out = part.per_branch(branches).joined(own_part, by)
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
        """Reshapes [N, K, B * R, ...] to [N * B, K, R, ...]."""
        parts = (self.top, self.total, self.mixed)
        return _Partial(*(x.unflatten(2, (branches, -1)).transpose(1, 2).flatten(0, 1) for x in parts))

    def joined(self, other: _Partial, by: Arithmetic) -> Tensor:
        """Returns the attention output over the keys of both."""
        top = torch.maximum(self.top, other.top)
        mine, theirs = by.exp(self.top - top), by.exp(other.top - top)
        mixed: Tensor = self.mixed * mine + other.mixed * theirs
        return mixed / (self.total * mine + other.total * theirs)


def _partial(by: Arithmetic, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> _Partial:
    """Attends from q [X, K, R, D] to k [X, tiles, K, D, PAGE] and v [.., PAGE, D]; row r sees seen[x, r] >= 0 keys."""
    tiles = k.shape[1]
    scores = by.paired(q[:, None], k).float()
    at = torch.arange(tiles * PAGE, device=q.device).view(1, tiles, 1, 1, PAGE)
    scores = scores.masked_fill(at >= seen[:, None, None, :, None], float("-inf"))
    top = scores.amax(dim=(1, 4), keepdim=True).clamp_min(-1e30)
    weights = by.exp(scores - top)
    mixed = by.paired(weights.to(v.dtype), v).float()
    return _Partial(top[:, 0], _along(by.total(weights)), _along(mixed))


def _along(x: Tensor) -> Tensor:
    """Sums over tiles one by one; a fully masked tile adds exact zeros, so the number of such tiles changes nothing."""
    first, *others = x.unbind(1)
    for tile in others:
        first = first + tile
    return first


def _tiled(x: Tensor) -> Tensor:
    """Reshapes [N, B, L, K, D] to [N * B, tiles, K, PAGE, D], padded with zeros."""
    x = torch.constant_pad_nd(x, (0, 0, 0, 0, 0, -x.shape[2] % PAGE))
    tiles: Tensor = x.flatten(0, 1).unflatten(1, (-1, PAGE))
    return tiles.transpose(2, 3)
