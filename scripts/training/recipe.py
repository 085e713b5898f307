"""What one training run is: geometry, stages, schedule. Knows numbers only, and the checkpoint's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimode.engine.models.families import NLD

from . import tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A window's noisy half: `regions` times `block` slots, each region cut into blocks of one of `widths`.

    `known`: how many tokens at a block's front may be in sight, one of these at random: a seed (1), nothing, as
    quadratic drafts begin (0), or a seed and forced tokens. `ends`: slots behind an end ask for the end token again.
    """

    regions: int
    block: int = 32
    widths: tuple[int, ...] = (32,)
    known: tuple[int, ...] = (1,)
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`noise`: of no regions for AR alone; `alpha`: weight of the diffusion loss; `adapter`: it alone is trained."""

    name: str
    steps: int
    windows: int
    noise: Noise = Noise(regions=0)
    alpha: float = 0.0
    lr: float = 3e-3
    decay: float = 0.0
    adapter: bool = False

    def rate(self, step: int) -> float:
        """Warm-up, stable, linear decay over the last `decay` share of the stage (WSD)."""
        warm = min(1.0, (step + 1) / 50)
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * warm * min(1.0, left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    length: int = 768
    block: int = 32
    rank: int = 16
    scale: float = 4.0
    episodes: int = 5000
    seed: int = 0

    def config(self) -> dict[str, Any]:
        """`config.json` in the NLD format. A yarn factor of 1 leaves the frequencies as they are."""
        return {
            "architectures": [NLD],
            "model_type": "nemotron_labs_diffusion",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden_size // self.heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "max_position_embeddings": 1024,
            "mask_token_id": tokenizer.MASK,
            "block_size": self.block,
            "bos_token_id": tokenizer.BOS,
            "eos_token_id": tokenizer.EOS,
            "dlm_paradigm": "bidirectional",
            "torch_dtype": "bfloat16",
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 1.0,
                "original_max_position_embeddings": 1024,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
            # docs/families.md and docs/adapters.md have the numbers
            "trimode": {"diffusion_selection": "text_first", "exact_first": True},
        }
