"""The forward pass of decoding: a model's weights fused and prepared for the kernels, and one ragged pass over them.

Knows weights, pages and layouts. The same mathematics as `Transformer.forward`, which training differentiates, without
modules on the way. Shapes: T rows, H query heads, K key-value heads, D head_dim, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from trimode.kernels.ops import Kernels, Layout

from . import rope
from .model import Attention, Layer, LowRank, Transformer
from .pages import PagePool


@dataclass(frozen=True, slots=True)
class Fused:
    """One layer: norms [E] (per head [D], where a family has them), matrices as `Kernels.prepare` made them."""

    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    adapter: tuple[Any, Any] | None


class Runner:
    """`kernels` do the arithmetic; `why`: the reason for these ones."""

    def __init__(self, model: Transformer, kernels: Kernels, why: str = "") -> None:
        self.config, self.kernels, self.why = model.config, kernels, why
        self.embedding = model.encoder.embed_tokens.weight
        self.frequencies, self.rope_factor = model.frequencies, model.rope_factor
        layers = cast(Sequence[Layer], model.encoder.layers)
        adapters: Sequence[Any] = [None] * len(layers) if model.adapter is None else list(model.adapter)
        self.layers = [self._fused(layer, adapter) for layer, adapter in zip(layers, adapters, strict=True)]
        self.has_adapter = model.adapter is not None
        self.norm = model.encoder.norm.weight
        self.head = kernels.prepare(model.diffusion_head.weight)

    @torch.inference_mode()
    def logits(
        self, tokens: Tensor, positions: Tensor, layout: Layout, adapted: Tensor | None, pool: PagePool, read: Tensor
    ) -> Tensor:
        """Logits [len(read), V] of the rows in `read`, for tokens [T] at positions [T].

        Keys and values of rows with a slot are kept in `pool`. `adapted` [T] bool marks rows that take the draft
        adapter; None for no row.
        """
        if adapted is not None and not self.has_adapter:
            raise ValueError("rows ask for the draft adapter, but this model has none")
        x = self.embedding[tokens]
        cos, sin = (part.to(x.dtype) for part in rope.cos_sin(self.frequencies, positions, self.rope_factor))
        scale = rope.query_scale(self.config.rope, positions)
        flags = None if adapted is None else adapted[:, None].to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = self._attention(index, layer, x, cos, sin, scale, layout, flags, pool)
            both = self.kernels.linear(self._normed(x, layer.norms[1]), layer.gate_up)
            x = self.kernels.linear(self.kernels.swiglu(both), layer.down, x)
        return self.kernels.linear(self._normed(x[read], self.norm), self.head)

    def _attention(
        self,
        index: int,
        layer: Fused,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        scale: Tensor | None,
        layout: Layout,
        flags: Tensor | None,
        pool: PagePool,
    ) -> Tensor:
        """x with the layer's attention added."""
        kernels, queries = self.kernels, self.config.num_attention_heads
        heads = queries + self.config.num_key_value_heads
        qkv = kernels.linear(self._normed(x, layer.norms[0]), layer.qkv).unflatten(-1, (-1, self.config.head_dim))
        if layer.head_norms is not None:
            self._norm_heads(qkv, layer.head_norms)
        kernels.rotate_heads(qkv, cos, sin, heads, queries, scale)
        kernels.keep(qkv, queries, pool.keys[index], pool.values[index], layout)
        mixed = kernels.attention(qkv, queries, pool.keys[index], pool.values[index], layout).flatten(1)
        if flags is not None and layer.adapter is not None:
            low, high = layer.adapter
            x = kernels.linear(kernels.linear(mixed, low) * flags, high, x)
        return kernels.linear(mixed, layer.out, x)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, weight, self.config.rms_norm_eps)

    def _norm_heads(self, qkv: Tensor, norms: tuple[Tensor, Tensor]) -> None:
        """Normalises each query and key head of qkv [T, H + 2 K, D] in place."""
        queries, keys = self.config.num_attention_heads, self.config.num_key_value_heads
        for part, weight in zip(qkv.split([queries, keys, keys], dim=1), norms, strict=False):
            part.copy_(self._normed(part.flatten(0, 1).contiguous(), weight).view_as(part))

    def _fused(self, layer: Layer, adapter: LowRank | None) -> Fused:
        attn, mlp, prepare = layer.self_attn, layer.mlp, self.kernels.prepare
        return Fused(
            norms=(layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
            head_norms=_head_norms(attn),
            qkv=prepare(torch.cat((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight))),
            out=prepare(attn.o_proj.weight),
            gate_up=prepare(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))),
            down=prepare(mlp.down_proj.weight),
            adapter=None if adapter is None else _scaled(adapter, prepare),
        )


def _head_norms(attn: Attention) -> tuple[Tensor, Tensor] | None:
    return None if attn.q_norm is None or attn.k_norm is None else (attn.q_norm.weight, attn.k_norm.weight)


def _scaled(adapter: LowRank, prepare: Any) -> tuple[Any, Any]:
    """The adapter's two matrices, its scale in the second."""
    return prepare(adapter.lora_A.weight), prepare(adapter.scale * adapter.lora_B.weight)
