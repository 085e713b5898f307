"""A ModelConfig as the metadata of a GGUF file: the way back of `config`.

Knows key names on both sides, and what llama.cpp has no key for, which is refused by name. Does not know tensors beyond
rope factors, or tokens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import CheckpointError
from .. import rope
from ..config import ModelConfig
from ..families import NLD

_WRITTEN: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
    "Ministral3ForCausalLM": "mistral3",
    "Mistral3ForConditionalGeneration": "mistral3",
    NLD: "mistral3",
}
"""Architectures to llama.cpp's names for them. An NLD model is Ministral 3 when it decodes causally."""
_SAME: Final = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip


def written_architecture(config: ModelConfig, origin: Path) -> str:
    """llama.cpp's name for the model of `config`. Raises CheckpointError where it has none."""
    name = _WRITTEN.get(config.architecture)
    if name is None:
        raise CheckpointError(
            f"{origin}: expected one of {', '.join(_WRITTEN)} to write as GGUF, found {config.architecture}, for which "
            "llama.cpp has no architecture"
        )
    return name


def config_keys(config: ModelConfig, name: str, origin: Path) -> dict[str, Any]:
    """The keys of the architecture `name`, counts as int and numbers as float. Raises CheckpointError."""
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "vocab_size": config.vocab_size,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.theta),
        **_scaling(config, name, origin),
    }
    return {f"{name}.{key}": value for key, value in keys.items()}


def _scaling(config: ModelConfig, name: str, origin: Path) -> dict[str, Any]:
    settings = config.rope
    keys: dict[str, Any] = {}
    if settings.kind == "yarn":
        keys = {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(settings.factor),
            "rope.scaling.original_context_length": settings.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": float(settings.beta_fast),
            "rope.scaling.yarn_beta_slow": float(settings.beta_slow),
        }
        if settings.mscale_all_dim:
            keys["rope.scaling.yarn_log_multiplier"] = float(settings.mscale_all_dim)
    if settings.llama_4_scaling_beta:
        if name != "mistral3":
            raise CheckpointError(f"{origin}: llama_4_scaling_beta is written for Ministral 3 alone, not for {name}")
        keys["attention.temperature_scale"] = float(settings.llama_4_scaling_beta)
        keys["rope.scaling.original_context_length"] = settings.original_max_position_embeddings
    return keys


def rope_factors(config: ModelConfig, name: str, origin: Path) -> NDArray[np.float32] | None:
    """What divides each rope frequency [D / 2], where that is stored as a tensor. Raises CheckpointError."""
    if config.rope.kind == "llama3":
        plain = config.rope.theta ** (torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
        found = 1.0 / (plain * rope.inverse_frequencies(config.rope, config.head_dim).double())
        factors = found.float().numpy()
    elif config.rope.factors:
        factors = np.array(config.rope.factors, np.float32)
    else:
        return None
    if name == "qwen3":
        raise CheckpointError(f"{origin}: llama.cpp reads factors of rope frequencies for Llama models, not for {name}")
    return factors


def check_same(written: ModelConfig, config: ModelConfig, origin: Path) -> None:
    """Raises CheckpointError where `written`, as it was read again, is another model than `config`."""
    different = [key for key in _SAME if getattr(written, key) != getattr(config, key)]
    if not math.isclose(written.rms_norm_eps, config.rms_norm_eps, rel_tol=1e-6):
        different.append("rms_norm_eps")
    different += _angles_differ(written, config)
    if different:
        raise CheckpointError(
            f"{origin}: a GGUF file cannot hold what these settings say: {', '.join(different)}; export another "
            "format, or load the directory itself"
        )


def _angles_differ(written: ModelConfig, config: ModelConfig) -> list[str]:
    ours, theirs = (
        (rope.inverse_frequencies(one.rope, one.head_dim), rope.attention_factor(one.rope)) for one in (config, written)
    )
    scales = [
        (one.rope.llama_4_scaling_beta or 0.0) and one.rope.original_max_position_embeddings
        for one in (config, written)
    ]
    return [
        *([] if torch.allclose(ours[0], theirs[0], rtol=1e-6, atol=0) else ["rope frequencies"]),
        *([] if math.isclose(ours[1], theirs[1], rel_tol=1e-6) else ["rope attention factor (mscale)"]),
        *([] if scales[0] == scales[1] else ["llama_4_scaling_beta"]),
    ]
