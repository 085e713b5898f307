"""Writes the model of a GGUF file as a directory that transformers loads: config.json, safetensors, tokenizer.

Knows config keys of transformers for the families that GGUF files hold. Transformers has a reader of its own, which
leaves pre-tokenizers out and refuses to save what it read. Whole weights come out, whatever the file stores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from ...errors import CheckpointError, RequestError
from ..config import ModelConfig
from ..rope_config import RopeConfig
from ..tokenizer import Tokenizer
from ..weight_files import SINGLE
from .config import gguf_config
from .file import GgufFile
from .tokenizer import gguf_tokenizer
from .weights import gguf_tensor, names

DTYPES: Final = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_TYPES: Final = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3", "Ministral3ForCausalLM": "ministral3"}
_SAME: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
_YARN: Final = (
    "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
)  # fmt: skip


def write_directory(source: Path, out: Path, stored: str | None = None) -> list[str]:
    """Writes the GGUF file `source` to the empty or new directory `out`, weights as `stored` (fp32 if not given).

    Returns nothing left out. Raises CheckpointError (source) and RequestError (`stored`, `out`).
    """
    if stored is not None and stored not in DTYPES:
        raise RequestError(f"type {stored!r}: expected one of {', '.join(DTYPES)}")
    if not source.is_file():
        raise CheckpointError(f"expected a GGUF file, found {source}; transformers reads a directory as it is")
    file = GgufFile.read(source)
    config, tokenizer = gguf_config(file), gguf_tokenizer(file)
    fields = {**_config(config, source), "dtype": str(DTYPES[stored or "f32"]).removeprefix("torch.")}
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "config.json", fields)
    _write(out / "generation_config.json", {"do_sample": False, "eos_token_id": list(config.eos_token_ids)})
    _write_tokenizer(tokenizer, config, out)
    dtype, known = DTYPES[stored or "f32"], config.family.stored
    tensors = {known(name): gguf_tensor(file, config, name).to(dtype).contiguous() for name in names(config)}
    save_file(tensors, out / SINGLE, metadata={"format": "pt"})
    return []


def _config(config: ModelConfig, origin: Path) -> dict[str, Any]:
    return {
        "architectures": [config.architecture],
        "model_type": _TYPES[config.architecture],
        **{key: getattr(config, key) for key in _SAME},
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": list(config.eos_token_ids),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "rope_parameters": _rope(config, origin),
    }


def _rope(config: ModelConfig, origin: Path) -> dict[str, Any]:
    rope: RopeConfig = config.rope
    found: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.factors and len(set(rope.factors)) > 1:
        raise CheckpointError(
            f"{origin}: config.json has no place for factors of single rope frequencies; take the model's own directory"
        )
    if rope.factors:
        return {**found, "rope_type": "linear", "factor": rope.factors[0]}
    if rope.kind == "yarn":
        found |= {key: value for key in _YARN if (value := getattr(rope, key)) is not None}
    if config.architecture == "Ministral3ForCausalLM":  # which always scales queries: with a factor of 0 it does not
        found["llama_4_scaling_beta"] = rope.llama_4_scaling_beta or 0.0
        found["original_max_position_embeddings"] = (
            rope.original_max_position_embeddings or config.max_position_embeddings
        )
    return found


def _write_tokenizer(tokenizer: Tokenizer, config: ModelConfig, out: Path) -> None:
    (out / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    if tokenizer.template.source is not None:
        (out / "chat_template.jinja").write_text(tokenizer.template.source, encoding="utf-8")
    ends = {"eos_token": tokenizer.token(config.eos_token_ids[0])}
    _write(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **ends, **tokenizer.special})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
