"""The metadata of a GGUF file as a ModelConfig: the keys of llama.cpp in those of config.json, then checked alike.

Knows key names on both sides. Does not know tensors beyond their shapes, or tokens beyond the ids of ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from ..config import ModelConfig
from .file import GgufFile
from .tokenizer import end_ids

EMBEDDING: Final = "token_embd.weight"
HEAD: Final = "output.weight"
FREQUENCIES: Final = "rope_freqs.weight"
"""What divides each rope frequency: how llama.cpp stores the scaling of Llama 3.1."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """`general.architecture` to the family of families.py. `interleaved`: rotated pairs lie side by side in a head."""

    family: str
    interleaved: bool


ARCHITECTURES: Final = {
    "llama": Architecture("LlamaForCausalLM", interleaved=True),
    "qwen3": Architecture("Qwen3ForCausalLM", interleaved=False),
    "mistral3": Architecture("Ministral3ForCausalLM", interleaved=True),
}
_GEOMETRY: Final = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}
_YARN: Final = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_log_multiplier": "mscale_all_dim",
}
_CHECKED: Final = (
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "attention.temperature_scale", "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "vocab_size",
)  # fmt: skip
_ONE_OR_ABSENT: Final = ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor")
_SAYS_NOTHING: Final = ("rope.scaling.finetuned", "tensor_data_layout")
_OTHERS_MAY_SAY: Final = {"attention.causal": True, "pooling_type": 0, "use_parallel_residual": False}
_NUMBERS: Final = (int, float)


def architecture_of(file: GgufFile) -> tuple[str, Architecture]:
    """The name that its keys begin with, and its row. Raises CheckpointError for a file of another kind."""
    name, kind = file.value("general.architecture", str), file.value("general.type", str, "model")
    parts = file.value("split.count", int, 1)
    if parts > 1:
        raise file.error(
            f"this is one of {parts} parts of a model; join them: llama-gguf-split --merge FIRST_PART OUT.gguf"
        )
    if name not in ARCHITECTURES or kind != "model":
        raise file.error(
            f"expected general.architecture to be one of {', '.join(ARCHITECTURES)} and general.type 'model', found "
            f"{name!r} and {kind!r}; docs/families.md lists what loads as safetensors"
        )
    return name, ARCHITECTURES[name]


def gguf_config(file: GgufFile) -> ModelConfig:
    """Raises CheckpointError for what is missing, impossible, or said by a key that is not known."""
    name, architecture = architecture_of(file)
    keys = {key.removeprefix(f"{name}."): key for key in file.metadata if key.startswith(f"{name}.")}
    _check_known(file, keys)
    fields: dict[str, Any] = {
        "architectures": [architecture.family],
        **{theirs: _number(file, name, ours, int) for ours, theirs in _GEOMETRY.items()},
        **_heads(file, name),
        "rms_norm_eps": _number(file, name, "attention.layer_norm_rms_epsilon"),
        "vocab_size": _rows(file, name),
        "tie_word_embeddings": HEAD not in file.places,
        "sliding_window": None,
        "eos_token_id": list(end_ids(file)),
        "rope_parameters": _rope(file, name),
    }
    config = ModelConfig.from_dict(fields, str(file.path))
    _check_heads(file, name, config)
    _check_sizes(file, name, config)
    factors = _factors(file, name, config)
    return replace(config, rope=replace(config.rope, factors=factors)) if factors else config


def _number(file: GgufFile, name: str, key: str, kind: type = float, default: Any = None) -> Any:
    """A number of metadata; None where there is none, which the checks of config.json then name."""
    found = file.value(f"{name}.{key}", _NUMBERS if kind is float else int, default)
    if isinstance(found, float) and not math.isfinite(found):
        raise file.error(f"expected {name}.{key} to be a finite number, found {found}")
    return found


def _check_known(file: GgufFile, keys: dict[str, str]) -> None:
    """Raises CheckpointError for a key of the architecture that might change the model and is not known here."""
    known = {*_GEOMETRY, *_YARN, *_CHECKED, *_SAYS_NOTHING}
    for key, whole in keys.items():
        said = file.metadata[whole]
        if key in _ONE_OR_ABSENT:
            if said not in (1, -1):
                raise file.error(f"expected {whole} to be 1, found {said!r}")
        elif key in _OTHERS_MAY_SAY:
            if said != _OTHERS_MAY_SAY[key]:
                raise file.error(f"expected {whole} to be {_OTHERS_MAY_SAY[key]!r}, found {said!r}")
        elif key not in known and said not in (0, False, "", []):
            raise file.error(
                f"{whole}={str(said)[:60]}: not a plain model of this architecture (experts, windows, scales and the "
                "like are not read); docs/families.md says what is"
            )


def _rows(file: GgufFile, name: str) -> int:
    """Ids that the embedding has. llama.cpp wants as many tokens, ours may be fewer."""
    place = file.places.get(EMBEDDING)
    if place is None or len(place.shape) != 2:
        raise file.error(f"expected {EMBEDDING} with two dimensions, found {place and list(place.shape)}")
    said = _number(file, name, "vocab_size", int, place.shape[0])
    if said != place.shape[0]:
        raise file.error(f"expected {name}.vocab_size to be the rows of {EMBEDDING}, {place.shape[0]}, found {said}")
    return place.shape[0]


def _heads(file: GgufFile, name: str) -> dict[str, Any]:
    heads, hidden = (_number(file, name, key, int) for key in ("attention.head_count", "embedding_length"))
    size = hidden // heads if heads and hidden else None
    return {
        "num_key_value_heads": _number(file, name, "attention.head_count_kv", int, heads),
        "head_dim": _number(file, name, "attention.key_length", int, size),
    }


def _check_heads(file: GgufFile, name: str, config: ModelConfig) -> None:
    for key in ("attention.value_length", "rope.dimension_count"):
        said = _number(file, name, key, int, config.head_dim)
        if said != config.head_dim:
            raise file.error(f"expected {name}.{key} to be the length of a head, {config.head_dim}, found {said}")


def _check_sizes(file: GgufFile, name: str, config: ModelConfig) -> None:
    """Raises CheckpointError for numbers larger than the tensors bear out, before anything is made of them."""
    if config.num_hidden_layers > len(file.places):
        raise file.error(f"{name}.block_count={config.num_hidden_layers}, and {len(file.places)} tensors are there")
    place, rows = file.places.get("blk.0.attn_q.weight"), config.num_attention_heads * config.head_dim
    if place is None or place.shape[0] != rows:
        raise file.error(f"expected blk.0.attn_q.weight with {rows} rows, found {place and list(place.shape)}")
    if config.max_position_embeddings >= 1 << 31:
        raise file.error(f"expected {name}.context_length below 2^31, found {config.max_position_embeddings}")


def _rope(file: GgufFile, name: str) -> dict[str, Any]:
    """`rope_parameters` of config.json. A linear scaling is one by factors (`_factors`)."""
    kind = file.value(f"{name}.rope.scaling.type", str, "none")
    if kind not in ("none", "linear", "yarn"):
        raise file.error(f"expected {name}.rope.scaling.type to be none, linear or yarn, found {kind!r}")
    found = {"rope_theta": _number(file, name, "rope.freq_base", float, 10000.0), "rope_type": "default"}
    beta = _number(file, name, "attention.temperature_scale")
    if kind == "yarn":
        settings = {ours: _number(file, name, key) for key, ours in _YARN.items()}
        found |= {key: value for key, value in settings.items() if value is not None}
        # llama.cpp has no key for mscale and takes 1 where the other one is given.
        found |= {"rope_type": "yarn", **({"mscale": 1.0} if found.get("mscale_all_dim") else {})}
    if beta:
        original = _number(file, name, "rope.scaling.original_context_length", int)
        found |= {"llama_4_scaling_beta": beta, "original_max_position_embeddings": original}
    return found


def _factors(file: GgufFile, name: str, config: ModelConfig) -> tuple[float, ...]:
    """What divides each frequency; empty where nothing does."""
    half, place = config.head_dim // 2, file.places.get(FREQUENCIES)
    linear = file.value(f"{name}.rope.scaling.type", str) == "linear"
    scale = _number(file, name, "rope.scaling.factor") if linear else 1.0
    if place is None and not linear:
        return ()
    if config.rope.kind != "default" or scale is None or scale <= 0:
        raise file.error(f"expected {name}.rope.scaling.factor > 0, and {FREQUENCIES} without yarn; found {scale}")
    if place is None:
        return (float(scale),) * half
    if place.kind != "F32" or place.shape != (half,):
        raise file.error(f"expected {FREQUENCIES} to be {half} numbers in F32, found {list(place.shape)} {place.kind}")
    found = np.frombuffer(file.data, "<f4", half, place.start)
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise file.error(f"expected {FREQUENCIES} to be finite and positive")
    return tuple(float(factor) * float(scale) for factor in found)
