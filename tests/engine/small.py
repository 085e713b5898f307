"""Random models and engines small enough to decode thousands of tokens a second.

`shared` puts one direction into every embedding, so that causal and block passes look alike and drafts are sometimes
accepted; without it two passes of a random model agree about once in a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.rope_config import RopeConfig
from trimode.engine.token_engine import TokenEngine

VOCAB, TEXT_VOCAB, MASK, EOS = 40, 38, 5, 3
PIECES = ["a", "b", "ab", "ba", "c", "xy", "x", "y", " ", "é", "z", "abc"]

CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=4096,
    mask_token_id=MASK,
    eos_token_ids=(EOS,),
    rope=RopeConfig(theta=1e4),
)


def model(
    seed: int,
    config: ModelConfig = CONFIG,
    *,
    shared: float = 1.0,
    sharpness: float = 6.0,
    rank: int = 0,
    adapted: Sequence[str] = ("o_proj",),
) -> Transformer:
    """A random transformer; `rank` > 0 gives it a draft adapter of the projections `adapted` with a random B."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(config)
        with torch.no_grad():
            model.encoder.embed_tokens.weight.add_(shared * torch.randn(config.hidden_size))
            if not config.tie_word_embeddings:
                model.diffusion_head.weight.mul_(sharpness)
            for name, weight in model.named_parameters():
                if "norm" in name:
                    weight.add_(0.2 * torch.randn_like(weight))
            if rank:
                for name, weight in model.add_adapter(rank, 4.0, adapted).named_parameters():
                    if "lora_B" in name:
                        weight.normal_(0, 0.2)
    return model.eval().requires_grad_(False)


def with_ends(*ends: int) -> ModelConfig:
    return replace(CONFIG, eos_token_ids=ends)


def text(ids: Sequence[int]) -> str:
    """One piece an id, the end token silent; several pieces share letters, so stop strings cross token borders."""
    return "".join(PIECES[token % len(PIECES)] for token in ids if token != EOS)


def engine(model: Transformer, keep_prefixes: bool = True, kv_bytes: int = 1 << 24, queue: int = 1024) -> TokenEngine:
    vocab = min(TEXT_VOCAB, model.config.vocab_size)
    return TokenEngine(model, text, vocab, kv_bytes=kv_bytes, queue=queue, keep_prefixes=keep_prefixes)


def prompt(seed: int, length: int, vocab: int = VOCAB) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(int(token) for token in torch.randint(0, vocab, (length,), generator=generator))
