"""The forward pass of decoding: a model's weights fused and prepared for the kernels, and one ragged pass over them.

Knows weights, pages and layouts. Does not know segments. The same mathematics as `Transformer.forward`, which training
differentiates, without modules. Shapes: T rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Final, cast

import torch
from torch import Tensor

from trimode.kernels.ops import (
    Adapter,
    Block,
    Choice,
    Kernels,
    Layout,
    LowRank,
    Precision,
    Rotation,
    SampledTokens,
    Stack,
    quantize,
)

from ..errors import CheckpointError
from ..kv_cache.pages import PagePool
from ..models import model as modules
from ..models import rope
from ..models.adapter import PROJECTIONS
from ..models.config import ModelConfig
from ..models.model import Attention, Layer, Linear, Transformer

_PRODUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Projections by the product that computes them together, in the order of its outputs."""


class Runner:
    """Runs passes of one model. `kernels` do the arithmetic; `why`: the reason for this implementation.

    `precision`: the blocks' matrices in eight bits, and with `whole_head` not the LM head. Adapters, norms and the
    embedding are never quantised. `release`: the model releases each matrix once it is quantised, so that memory never
    has two copies of more than one. Matrices with the same inputs become one, of which the model's weights are views.
    Raises CheckpointError for weights that cannot be quantised, WeightsReleased.
    """

    embedding: Tensor

    kernels: Kernels
    why: str
    angles: rope.Angles
    whole_head: bool
    has_adapter: bool
    stack: Stack

    def __init__(
        self,
        model: Transformer,
        kernels: Kernels,
        why: str = "",
        precision: Precision | None = None,
        whole_head: bool = True,
        release: bool = False,
    ) -> None:
        model.must_be_whole("an engine")
        self.config: ModelConfig = model.config
        self.kernels, self.why = kernels, why
        self.precision: Precision | None = precision
        self.whole_head, self._release = whole_head, release and precision is not None
        self.embedding = model.encoder.embed_tokens.weight
        self._rope = (self.config.rope, model.frequencies, model.rope_factor, self.embedding.dtype)
        self.angles = self.fresh_angles()
        layers = cast(Sequence[Layer], model.encoder.layers)
        self.has_adapter = model.adapter is not None
        self.stack = Stack(
            [self._block(layer, model.adapter_terms(index)) for index, layer in enumerate(layers)],
            model.encoder.norm.weight,
            self.config.rms_norm_eps,
            self._kept([model.diffusion_head], None if whole_head else precision),
            self.config.norm_groups,
        )
        if self._release:
            model.released = self.quantize

    @property
    def quantize(self) -> str:
        """How weights are quantised: `no`, `int8`, or with the LM head `int8+head`."""
        if self.precision is None:
            return "no"
        return self.precision if self.whole_head else f"{self.precision}+head"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that every pass reads, in the kernels' form."""
        matrices = ((block.qkv, block.out, block.gate_up, block.down) for block in self.stack.blocks)
        kept = [self.stack.head, *chain.from_iterable(matrices)]
        return sum(matrix.nbytes for matrix in kept)

    def fresh_angles(self) -> rope.Angles:
        """Returns new, empty tables of rotations."""
        return rope.Angles(*self._rope)

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
        angles: rope.Angles | None = None,
    ) -> tuple[Tensor, list[SampledTokens]]:
        """Returns logits [len(read), V] of the rows in `read`, and the tokens of each choice, for tokens [T].

        positions [T] are below `end`. Keys and values of rows with a slot are written to `pool`. `adapted` [T] bool
        marks rows that take the draft adapter; None for no row. `angles`: tables of rotations to use; the runner's own,
        the default, move in memory when they grow.
        """
        if adapted is not None and not self.has_adapter:
            raise ValueError("rows ask for the draft adapter, but this model has none")
        x = self.embedding[tokens]
        rotation = Rotation(*(angles or self.angles).at(positions, end))
        flags = None if adapted is None else adapted[:, None].to(x.dtype)
        return self.kernels.forward(x, self.stack, rotation, flags, pool.keys, pool.values, layout, read, choices)

    def _block(self, layer: Layer, terms: Mapping[str, modules.LowRank]) -> Block:
        attn, mlp, precision = layer.self_attn, layer.mlp, self.precision
        return Block(
            queries=self.config.num_attention_heads,
            groups=self.config.num_key_value_heads,
            dim=self.config.head_dim,
            eps=self.config.rms_norm_eps,
            norms=(layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
            head_norms=_head_norms(attn),
            qkv=self._kept([attn.q_proj, attn.k_proj, attn.v_proj], precision),
            out=self._kept([attn.o_proj], precision),
            gate_up=self._kept([mlp.gate_proj, mlp.up_proj], precision),
            down=self._kept([mlp.down_proj], precision),
            adapter=_adapter(layer, terms, self.kernels) if terms else None,
            norm_groups=self.config.norm_groups,
        )

    def _kept(self, layers: Sequence[Linear], precision: Precision | None) -> Any:
        """Returns matrices with the same inputs as one, in the kernels' form."""
        if precision is None:
            return self.kernels.prepare(joined(layers))
        try:
            rounded = quantize(torch.cat([layer.weight for layer in layers]), precision)
        except ValueError as error:
            raise CheckpointError(f"quantize={precision!r}: {error}") from None
        if self._release:
            for layer in layers:
                layer.release(self.embedding)
        return rounded


def joined(layers: Sequence[Linear]) -> Tensor:
    """Joins the layers' matrices to one [sum of outputs, in]; the layers' weights become views of it.

    So they are in memory once. Parameters stay the same objects; a second call finds them joined.
    """
    weights = [layer.weight.detach() for layer in layers]
    first, rows = weights[0], [len(weight) for weight in weights]
    fused = (
        first.as_strided((sum(rows), first.shape[1]), first.stride(), first.storage_offset())
        if _lined_up(weights)
        else torch.cat(weights)
    )
    for layer, part in zip(layers, fused.split(rows), strict=True):
        layer.weight.data = part
    return fused


def _lined_up(weights: Sequence[Tensor]) -> bool:
    """Returns whether the matrices are adjacent in one storage, in order."""
    ends = accumulate((weight.numel() for weight in weights), initial=weights[0].storage_offset())
    places = {weight.untyped_storage().data_ptr() for weight in weights}
    starts = [weight.storage_offset() for weight in weights]
    return len(places) == 1 and starts == list(ends)[:-1] and all(weight.is_contiguous() for weight in weights)


def _head_norms(attn: Attention) -> tuple[Tensor, Tensor] | None:
    return None if attn.q_norm is None or attn.k_norm is None else (attn.q_norm.weight, attn.k_norm.weight)


def _adapter(layer: Layer, terms: Mapping[str, modules.LowRank], kernels: Kernels) -> Adapter:
    """Returns the terms of each product in the kernels' form."""
    return Adapter(**{product: _terms(layer, names, terms, kernels) for product, names in _PRODUCTS.items()})


def _terms(
    layer: Layer, names: Sequence[str], terms: Mapping[str, modules.LowRank], kernels: Kernels
) -> tuple[LowRank, ...]:
    """Returns the terms of one product of the projections `names`, their scales in B."""
    found, first = list[LowRank](), 0
    for name in names:
        if (term := terms.get(name)) is not None:
            found.append(LowRank(first, term.lora_A.weight, term.scale * term.lora_B.weight))
        first += cast(Linear, layer.get_submodule(f"{PROJECTIONS[name]}.{name}")).out_features
    return kernels.prepare_adapter(found, first)
