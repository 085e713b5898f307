"""The forward pass of decoding: a model's weights fused and prepared for the kernels, and one ragged pass over them.

Knows weights, pages and layouts. Does not know segments. The same mathematics as `Transformer.forward`, which training
differentiates, without modules. Shapes: T rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

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
)

from ..kv_cache.pages import PagePool
from ..models import model as modules
from ..models import rope
from ..models.adapter import PROJECTIONS
from ..models.config import ModelConfig
from ..models.model import Attention, Layer, Linear, Transformer
from .matrices import PRODUCTS, FileMatrices, Matrices, ModuleMatrices


class Runner:
    """Runs passes of one model. `kernels` do the arithmetic; `why`: the reason for this implementation.

    `precision`: the blocks' matrices in eight or four bits, and with `whole_head` not the LM head. Adapters, norms and
    the embedding are never quantised. `release`: the model releases each matrix once it is quantised, so that memory
    never has two copies of more than one. `whole`: matrices that files have in blocks are made whole. Raises
    CheckpointError for weights that cannot be quantised, WeightsReleased.
    """

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
        whole: bool = False,
    ) -> None:
        self.config: ModelConfig = model.config
        self.kernels = kernels
        self.precision: Precision | None = precision
        self.whole_head = whole_head
        if model.stored is None:
            model.must_be_whole("an engine")
        matrices: Matrices = (
            ModuleMatrices(model, kernels, precision, whole_head, release)
            if model.stored is None
            else FileMatrices(model.stored, model, kernels, precision, whole_head, whole)
        )
        self.table: Any = matrices.table
        self.why = "; ".join(filter(None, (why, matrices.note)))
        self._rope = (self.config.rope, model.frequencies, model.rope_factor, model.encoder.norm.weight.dtype)
        self.angles = self.fresh_angles()
        layers = cast(Sequence[Layer], model.encoder.layers)
        self.has_adapter = model.adapter is not None
        self.stack = Stack(
            [self._block(matrices, index, layer, model.adapter_terms(index)) for index, layer in enumerate(layers)],
            model.encoder.norm.weight,
            self.config.rms_norm_eps,
            matrices.head(),
            self.config.norm_groups,
        )
        if release and precision is not None:
            model.released = self.quantize

    @property
    def dtype(self) -> torch.dtype:
        return self.stack.norm.dtype

    @property
    def device(self) -> torch.device:
        return self.stack.norm.device

    @property
    def forms(self) -> list[str]:
        """How packed matrices are stored, if that is in blocks: by the names of ggml."""
        found = {getattr(matrix, "form", "") for matrix in self._matrices()}
        return sorted(form for form in found if form.startswith("Q"))

    @property
    def quantize(self) -> str:
        """How weights are quantised: `no`, `int8`, or with the LM head `int8+head`."""
        if self.precision is None:
            return "no"
        return self.precision if self.whole_head else f"{self.precision}+head"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that every pass reads, in the kernels' form."""
        return sum(matrix.nbytes for matrix in self._matrices())

    def _matrices(self) -> list[Any]:
        matrices = ((block.qkv, block.out, block.gate_up, block.down) for block in self.stack.blocks)
        return [self.stack.head, *chain.from_iterable(matrices)]

    def embed(self, tokens: Tensor) -> Tensor:
        """Returns the embedding's rows [T, E] of tokens [T]."""
        return self.kernels.lookup(self.table, tokens)

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
        x = self.embed(tokens)
        rotation = Rotation(*(angles or self.angles).at(positions, end))
        flags = None if adapted is None else adapted[:, None].to(x.dtype)
        return self.kernels.forward(x, self.stack, rotation, flags, pool.keys, pool.values, layout, read, choices)

    def _block(self, matrices: Matrices, index: int, layer: Layer, terms: Mapping[str, modules.LowRank]) -> Block:
        return Block(
            queries=self.config.num_attention_heads,
            groups=self.config.num_key_value_heads,
            dim=self.config.head_dim,
            eps=self.config.rms_norm_eps,
            norms=(layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
            head_norms=_head_norms(layer.self_attn),
            **{name: matrices.product(index, name) for name in PRODUCTS},
            adapter=_adapter(layer, terms, self.kernels) if terms else None,
            norm_groups=self.config.norm_groups,
        )


def _head_norms(attn: Attention) -> tuple[Tensor, Tensor] | None:
    return None if attn.q_norm is None or attn.k_norm is None else (attn.q_norm.weight, attn.k_norm.weight)


def _adapter(layer: Layer, terms: Mapping[str, modules.LowRank], kernels: Kernels) -> Adapter:
    """Returns the terms of each product in the kernels' form."""
    return Adapter(**{product: _terms(layer, names, terms, kernels) for product, names in PRODUCTS.items()})


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
