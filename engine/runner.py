"""The forward pass of decoding: a model's weights fused and prepared for the kernels, and one ragged pass over them.

Knows weights, pages and layouts. The same mathematics as `Transformer.forward`, which training differentiates, without
modules on the way. Shapes: T rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from trimode.kernels.ops import Block, Choice, Kernels, Layout, Rotation, Stack

from . import rope
from .model import Attention, Layer, LowRank, Transformer
from .pages import PagePool


class Runner:
    """`kernels` do the arithmetic; `why`: the reason for these ones."""

    def __init__(self, model: Transformer, kernels: Kernels, why: str = "") -> None:
        self.config, self.kernels, self.why = model.config, kernels, why
        self.embedding = model.encoder.embed_tokens.weight
        self.angles = rope.Angles(self.config.rope, model.frequencies, model.rope_factor, self.embedding.dtype)
        layers = cast(Sequence[Layer], model.encoder.layers)
        adapters: Sequence[Any] = [None] * len(layers) if model.adapter is None else list(model.adapter)
        self.has_adapter = model.adapter is not None
        self.stack = Stack(
            [self._block(layer, adapter) for layer, adapter in zip(layers, adapters, strict=True)],
            model.encoder.norm.weight,
            self.config.rms_norm_eps,
            kernels.prepare(model.diffusion_head.weight),
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that every pass reads, as the kernels keep them."""
        matrices = ((block.qkv, block.out, block.gate_up, block.down) for block in self.stack.blocks)
        kept = [self.stack.head, *chain.from_iterable(matrices)]
        return sum(matrix.nbytes for matrix in kept)

    @torch.inference_mode()
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        end: int,
        layout: Layout,
        adapted: Tensor | None,
        pool: PagePool,
        read: Tensor,
        choices: Sequence[Choice],
    ) -> tuple[Tensor, list[int]]:
        """Logits [len(read), V] of the rows in `read`, and the token of each choice, for tokens [T] at positions [T].

        Positions are below `end`. Keys and values of rows with a slot are kept in `pool`. `adapted` [T] bool marks rows
        that take the draft adapter; None for no row.
        """
        if adapted is not None and not self.has_adapter:
            raise ValueError("rows ask for the draft adapter, but this model has none")
        x = self.embedding[tokens]
        rotation = Rotation(*self.angles.at(positions, end))
        flags = None if adapted is None else adapted[:, None].to(x.dtype)
        return self.kernels.forward(x, self.stack, rotation, flags, pool.keys, pool.values, layout, read, choices)

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
