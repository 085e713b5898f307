"""The transformer of every family: a Llama-style decoder that takes its attention as an argument.

Knows weights and one ragged row of tokens. Does not know caches, masks or modes: the caller hands in `attend`, which
receives each layer's rotated queries, keys and values and returns the attention output. Attribute names are the tensor
names of an NLD checkpoint; families.py has those of others. Shapes: T tokens, H query heads, K key-value heads, D
head_dim, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from trimode.kernels import ops

from ..errors import WeightsReleased
from . import rope
from .adapter import PROJECTIONS
from .config import ModelConfig
from .stored import StoredMatrices

EMBEDDING: Final = "encoder.embed_tokens.weight"
HEAD: Final = "diffusion_head.weight"
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention function (layer, q [T, H, D], k [T, K, D], v [T, K, D]) -> [T, H, D]."""


class _Typed(nn.Module):
    """nn.Module whose call, like its `forward`, returns a tensor, for type checkers."""

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


class Linear(_Typed, nn.Linear):
    """A matrix without bias whose product is `ops.linear`."""

    weight: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return ops.linear(input, self.weight)

    def release(self, shared: Tensor) -> None:
        """Releases the matrix and keeps its shape; does nothing if it is `shared`."""
        if self.weight is not shared:
            self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)


class RMSNorm(_Typed):
    """RMSNorm of a row, or of each of its `groups` equal parts."""

    def __init__(self, size: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.ones(size))
        self.eps: float = eps
        self.groups: int = groups

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps, self.groups)


class LowRank(_Typed):
    """The draft adapter of one projection: x -> scale * B(A(x)), added for draft rows only."""

    lora_A: Linear
    lora_B: Linear

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.lora_A = Linear(inputs, rank)
        self.lora_B = Linear(rank, outputs)
        self.scale = scale
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.lora_B(self.lora_A(x))


class Attention(nn.Module):
    """The projections, and in a family with `qk_norm` one norm [D] each for all query and all key heads."""

    head_dim: int
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, queries)
        self.k_proj = Linear(config.hidden_size, keys)
        self.v_proj = Linear(config.hidden_size, keys)
        self.o_proj = Linear(queries, config.hidden_size)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.family.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.family.qk_norm else None


def _per_head(norm: RMSNorm | None, heads: Tensor) -> Tensor:
    """Normalises each head of heads [T, H, D] as a row of its own; returns them unchanged without a norm."""
    return heads if norm is None else norm(heads.flatten(0, 1)).view_as(heads)


class MLP(nn.Module):
    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)


class Layer(nn.Module):
    input_layernorm: RMSNorm
    self_attn: Attention
    post_attention_layernorm: RMSNorm
    mlp: MLP

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_groups)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_groups)
        self.mlp = MLP(config)


class Encoder(nn.Module):
    norm: RMSNorm

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # On the meta device drawing imports torch._dynamo (normal_, 0.9 s) or sympy (randn, 0.2 s).
        weight = torch.empty(config.vocab_size, config.hidden_size)
        if not weight.is_meta:
            weight.normal_()
        self.embed_tokens: nn.Embedding = nn.Embedding(config.vocab_size, config.hidden_size, _weight=weight)
        self.layers: nn.ModuleList = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_groups)


class Transformer(_Typed):
    """The model. `encoder` and `diffusion_head` have the checkpoint's names. `adapter`: None, or for each layer the
    `LowRank` of each adapted projection by its name.

    `released`: how the matrices were quantised that are no longer in memory; empty if all are. `stored`: the matrices,
    if they were left in the checkpoint's files.
    """

    encoder: Encoder
    diffusion_head: Linear
    frequencies: Tensor
    rope_factor: float

    released = ""
    stored: StoredMatrices | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.diffusion_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.diffusion_head.weight = self.encoder.embed_tokens.weight
        self.adapter: nn.ModuleList | None = None
        self.frequencies = self.rope_frequencies(config)
        self.rope_factor = rope.attention_factor(config.rope)

    def must_be_whole(self, what: str) -> None:
        """Raises WeightsReleased, which names `what` as the reason, if matrices are not in memory."""
        if self.released or self.stored is not None:
            raise WeightsReleased(what, self.released)

    @staticmethod
    def rope_frequencies(config: ModelConfig) -> Tensor:
        """Returns [D / 2] fp32, kept outside the state dict, because no checkpoint stores it."""
        return rope.inverse_frequencies(config.rope, config.head_dim)

    def add_adapter(self, rank: int, scale: float, projections: Sequence[str] = ("o_proj",)) -> nn.ModuleList:
        """Adds a fresh adapter, whose output is zero until it is trained or loaded."""
        return self.add_adapters([dict.fromkeys(projections, (rank, scale))] * self.config.num_hidden_layers)

    def add_adapters(self, ranks: Sequence[Mapping[str, tuple[int, float]]]) -> nn.ModuleList:
        """Adds an adapter with rank and scale by layer and projection."""
        layers = cast(Sequence[Layer], self.encoder.layers)
        self.adapter = nn.ModuleList(
            nn.ModuleDict({name: _low_rank(layer, name, *rank) for name, rank in own.items()})
            for layer, own in zip(layers, ranks, strict=True)
        )
        return self.adapter

    def adapter_terms(self, layer: int) -> Mapping[str, LowRank]:
        """Returns the adapter's terms at one layer by projection; empty without an adapter."""
        return {} if self.adapter is None else dict(cast(Any, self.adapter[layer]).items())

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend, adapted: Tensor | None = None) -> Tensor:
        """Returns final hidden states [T, E] for tokens [T] at positions [T].

        `adapted` [T] bool marks the rows whose projections take the draft adapter; None for no row. Raises
        WeightsReleased.
        """
        self.must_be_whole("a pass of the model itself")
        if adapted is not None and self.adapter is None:
            raise ValueError("rows ask for the draft adapter, but this model has none")
        x: Tensor = self.encoder.embed_tokens(tokens)
        cos, sin = (part.to(x.dtype)[:, None] for part in rope.cos_sin(self.frequencies, positions, self.rope_factor))
        scale = rope.query_scale(self.config.rope, positions)
        q_scale = None if scale is None else scale.to(x.dtype)[:, None, None]
        layers = cast(Sequence[Layer], self.encoder.layers)
        for index, layer in enumerate(layers):
            x = x + self._attention(index, layer, x, cos, sin, q_scale, attend, adapted)
            x = x + self._mlp(index, layer, x, adapted)
        return self.encoder.norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Returns logits [T, V] of hidden states [T, E]."""
        return self.diffusion_head(hidden)

    def _attention(
        self,
        index: int,
        layer: Layer,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_scale: Tensor | None,
        attend: Attend,
        adapted: Tensor | None,
    ) -> Tensor:
        attn = layer.self_attn
        h = layer.input_layernorm(x)
        q, k, v = (
            self._product(index, attn, name, h, adapted).unflatten(-1, (-1, attn.head_dim))
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = (ops.rotate(_per_head(norm, x), cos, sin) for norm, x in ((attn.q_norm, q), (attn.k_norm, k)))
        mixed = attend(index, q if q_scale is None else q * q_scale, k, v).flatten(1)
        return self._product(index, attn, "o_proj", mixed, adapted)

    def _mlp(self, index: int, layer: Layer, x: Tensor, adapted: Tensor | None) -> Tensor:
        h = layer.post_attention_layernorm(x)
        gate, up = (self._product(index, layer.mlp, name, h, adapted) for name in ("gate_proj", "up_proj"))
        return self._product(index, layer.mlp, "down_proj", ops.silu_mul(gate, up), adapted)

    def _product(self, index: int, part: nn.Module, name: str, x: Tensor, adapted: Tensor | None) -> Tensor:
        """Returns the projection `name` of x, with its adapter's term for marked rows."""
        y: Tensor = getattr(part, name)(x)
        term = None if adapted is None else self.adapter_terms(index).get(name)
        return y if adapted is None or term is None else y + term(x) * adapted[:, None].to(y.dtype)


def _low_rank(layer: Layer, name: str, rank: int, scale: float) -> LowRank:
    """Returns a fresh term for the projection `name` of the layer."""
    projection = cast(Linear, layer.get_submodule(f"{PROJECTIONS[name]}.{name}"))
    return LowRank(projection.in_features, projection.out_features, rank, scale)
