"""Models of the published sizes with random weights: a pass takes as long as with trained ones.

Knows geometry. `tiny` is for a trial of the bench without a GPU; its times say nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.rope_config import RopeConfig

RANK: Final = 128
"""Of the published draft adapters."""
_8B: Final = ModelConfig(
    vocab_size=131072,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=34,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    max_position_embeddings=262144,
    mask_token_id=100,
    eos_token_ids=(11,),
    rope=RopeConfig(
        theta=1e6,
        kind="yarn",
        factor=16.0,
        original_max_position_embeddings=16384,
        mscale=1.0,
        mscale_all_dim=1.0,
        llama_4_scaling_beta=0.1,
    ),
)
SHAPES: Final = {
    "3b": replace(_8B, hidden_size=3072, intermediate_size=9216, num_hidden_layers=26),
    "8b": _8B,
    "14b": replace(
        _8B, hidden_size=5120, intermediate_size=16384, num_hidden_layers=40, rope=replace(_8B.rope, theta=1e9)
    ),
    "tiny": replace(
        _8B, vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    ),
}  # fmt: skip


def model(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Transformer:
    """Random weights of the size that trained ones have, made where they stay; with a draft adapter."""
    with torch.device("meta"):
        made = Transformer(config)
        made.add_adapter(min(RANK, config.hidden_size), 4.0)
    made = made.to(dtype).to_empty(device=device)
    torch.manual_seed(0)
    for name, weight in made.requires_grad_(False).named_parameters():
        weight.fill_(1.0) if "norm" in name else weight.normal_(0, 0.02)
    made.frequencies = Transformer.rope_frequencies(config).to(device)
    return made.eval()


def parameters(config: ModelConfig) -> int:
    """Parameters of the matrices that a pass multiplies with: every layer and the head."""
    hidden, dim = config.hidden_size, config.head_dim
    attention = 2 * hidden * dim * (config.num_attention_heads + config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size) + config.vocab_size * hidden
