"""The forward pass of decoding: a model's weights fused and prepared for the kernels, and one ragged pass over them.

Knows weights, pages and layouts. The same mathematics as `Transformer.forward`, which training differentiates, without
modules on the way. Shapes: T rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from trimode.kernels.ops import Block, Kernels, Layout, Rotation

from . import rope
from .model import Attention, Layer, LowRank, Transformer
from .pages import PagePool


class Runner:
    """`kernels` do the arithmetic; `why`: the reason for these ones."""

    def __init__(self, model: Transformer, kernels: Kernels, why: str = "") -> None:
        self.config, self.kernels, self.why = model.config, kernels, why
        self.embedding = model.encoder.embed_tokens.weight
        self.frequencies, self.rope_factor = model.frequencies, model.rope_factor
        layers = cast(Sequence[Layer], model.encoder.layers)
        adapters: Sequence[Any] = [None] * len(layers) if model.adapter is None else list(model.adapter)
        self.blocks = [self._block(layer, adapter) for layer, adapter in zip(layers, adapters, strict=True)]
        self.has_adapter = model.adapter is not None
        self.norm = model.encoder.norm.weight
        self.head = kernels.prepare(model.diffusion_head.weight)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that every pass reads, as the kernels keep them."""
        kept = [self.head, *(m for block in self.blocks for m in (block.qkv, block.out, block.gate_up, block.down))]
        return sum(matrix.nbytes for matrix in kept)

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
        rotation = Rotation(cos, sin, rope.query_scale(self.config.rope, positions))
        flags = None if adapted is None else adapted[:, None].to(x.dtype)
        x = self.kernels.blocks(x, self.blocks, rotation, flags, pool.keys, pool.values, layout)
        return self.kernels.linear(self.kernels.rms_norm(x[read], self.norm, self.config.rms_norm_eps), self.head)

    def _block(self, layer: Layer, adapter: LowRank | None) -> Block:
        attn, mlp, prepare = layer.self_attn, layer.mlp, self.kernels.prepare
        return Block(
            queries=self.config.num_attention_heads,
            groups=self.config.num_key_value_heads,
            dim=self.config.head_dim,
            eps=self.config.rms_norm_eps,
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
