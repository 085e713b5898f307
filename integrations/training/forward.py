"""The training pass: clean rows of the frozen base without gradients, then slots with the adapter, which see them.

Knows the modules of a model and a batch. Does not know losses. The rows are those of one decoding pass, of which only
the slots take the adapter; clean rows never see slots, so they run first and keep their keys and values. Products are
the library's, not the row-invariant ones of decoding. Shapes: C clean rows, N slots, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trimode.engine.models import rope
from trimode.engine.models.model import Layer, RMSNorm, Transformer

from .batches import Batch, Trunk

Terms = Mapping[str, tuple[Tensor, Tensor, float]]
"""For each adapted projection of a layer: A, B and scale."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Known:
    """Clean rows of one sample after the base: final hidden states [c, E], keys and values [c, K, D] of each layer."""

    hidden: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(x.numel() * x.element_size() for x in (self.hidden, *self.keys, *self.values))


@torch.no_grad()
def known_rows(model: Transformer, trunk: Trunk) -> Known:
    """Runs the clean rows of one sample by base weights."""
    keys, values = list[Tensor](), list[Tensor]()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.append(k)
        values.append(v)
        return _attention(q, k, v, trunk.seen)

    x = model.encoder.embed_tokens(trunk.ids)
    angles = _angles(model, trunk.positions, x)
    for layer in _layers(model):
        x = _layer(layer, {}, x, angles, attend)
    return Known(_norm(model.encoder.norm, x), tuple(keys), tuple(values))


def slot_rows(
    model: Transformer, terms: Sequence[Terms], batch: Batch, known: Sequence[Known], recompute: bool = False
) -> Tensor:
    """Returns final hidden states [N, E] of the slots, with gradients for `terms`.

    `recompute`: keeps no activations inside of layers, for less memory.
    """
    x = model.encoder.embed_tokens(batch.noise)
    angles = _angles(model, batch.places, x)
    for at, (layer, own) in enumerate(zip(_layers(model), terms, strict=True)):

        def run(x: Tensor, at: int = at, layer: Layer = layer, own: Terms = own) -> Tensor:
            return _layer(layer, own, x, angles, lambda q, k, v: _seeing(batch, at, known, q, k, v))

        x = cast(Tensor, checkpoint(run, x, use_reentrant=False)) if recompute else run(x)
    return _norm(model.encoder.norm, x)


def _seeing(batch: Batch, layer: int, known: Sequence[Known], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns the attention of slots to the clean rows that they know and to the slots of their own drafts."""
    return torch.cat(
        [
            _joint(q[p.slots], k[p.slots], v[p.slots], one.keys[layer], one.values[layer], p.seen, batch)
            for p, one in zip(batch.parts, known, strict=True)
        ]
    )


def _joint(q: Tensor, k: Tensor, v: Tensor, known_k: Tensor, known_v: Tensor, seen: Tensor, batch: Batch) -> Tensor:
    """Returns attention [n, H, D] of the slots of one sample, n = drafts * width.

    Clean keys and own keys are two products, because the clean ones take no gradient and the own ones are few. The
    query heads of one key head are rows of one product: G groups, K key heads.
    """
    heads, width = k.shape[1], batch.width
    groups, dim = q.shape[1] // heads, q.shape[2]
    q = q.unflatten(1, (heads, groups)).permute(1, 2, 0, 3) * dim**-0.5  # [K, G, n, D]
    before = torch.bmm(q.flatten(1, 2), known_k.permute(1, 2, 0)).unflatten(1, (groups, -1))  # [K, G, n, c]
    before = before.masked_fill(~seen, float("-inf"))
    k, v = (x.transpose(0, 1).unflatten(1, (-1, width))[:, None] for x in (k, v))  # [K, 1, d, W, D]
    own = q.unflatten(2, (-1, width)) @ k.transpose(-1, -2)  # [K, G, d, W, W]
    if batch.causal:
        own = own.masked_fill(~torch.ones(width, width, dtype=torch.bool, device=q.device).tril(), float("-inf"))
    shares = torch.softmax(torch.cat((before, own.flatten(2, 3)), -1), -1)
    before, own = shares.split([seen.shape[1], width], -1)
    mixed = torch.bmm(before.flatten(1, 2), known_v.transpose(0, 1)).unflatten(1, (groups, -1))
    mixed = mixed + (own.unflatten(2, (-1, width)) @ v).flatten(2, 3)
    found: Tensor = mixed.permute(2, 0, 1, 3).flatten(1, 2)
    return found


def _layers(model: Transformer) -> Sequence[Layer]:
    return cast(Sequence[Layer], model.encoder.layers)


Angles = tuple[Tensor, Tensor, Tensor | None]


def _angles(model: Transformer, positions: Tensor, x: Tensor) -> Angles:
    cos, sin = (part.to(x.dtype)[:, None] for part in rope.cos_sin(model.frequencies, positions, model.rope_factor))
    scale = rope.query_scale(model.config.rope, positions)
    return cos, sin, None if scale is None else scale.to(x.dtype)[:, None, None]


def _layer(layer: Layer, terms: Terms, x: Tensor, angles: Angles, attend: Attend) -> Tensor:
    attn, mlp = layer.self_attn, layer.mlp
    h = _norm(layer.input_layernorm, x)
    q, k, v = (
        _product(getattr(attn, name).weight, terms.get(name), h).unflatten(-1, (-1, attn.head_dim))
        for name in ("q_proj", "k_proj", "v_proj")
    )
    cos, sin, scale = angles
    q, k = (_rotate(_heads(norm, y), cos, sin) for norm, y in ((attn.q_norm, q), (attn.k_norm, k)))
    mixed = attend(q if scale is None else q * scale, k, v).flatten(1)
    x = x + _product(attn.o_proj.weight, terms.get("o_proj"), mixed)
    h = _norm(layer.post_attention_layernorm, x)
    gate, up = (_product(getattr(mlp, name).weight, terms.get(name), h) for name in ("gate_proj", "up_proj"))
    return x + _product(mlp.down_proj.weight, terms.get("down_proj"), F.silu(gate) * up)


def _product(weight: Tensor, term: tuple[Tensor, Tensor, float] | None, x: Tensor) -> Tensor:
    y = F.linear(x, weight)
    if term is None:
        return y
    a, b, scale = term
    return y + F.linear(F.linear(x, a) * scale, b)


def _norm(norm: RMSNorm, x: Tensor) -> Tensor:
    wide: Tensor = x.float().unflatten(-1, (norm.groups, -1))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    found: Tensor = norm.weight * wide.flatten(-2).to(x.dtype)
    return found


def _heads(norm: RMSNorm | None, heads: Tensor) -> Tensor:
    return heads if norm is None else _norm(norm, heads)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Returns [T, H, D] of q [T, H, D] and k, v [T, K, D], where row t sees seen[t]."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)[0].transpose(0, 1)
