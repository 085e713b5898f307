"""Exports a checkpoint for other engines: an NLD model's causal part as `Ministral3ForCausalLM` of transformers, or any
model that llama.cpp has an architecture for as one GGUF file.

Knows file names, config keys and tensor names on both sides. Does not know modules or decoding: tensors are copied from
file to file, shard by shard and in their own dtype. What the other format cannot express is returned as sentences.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from ..errors import CheckpointError, RequestError
from .config import OWN, ModelConfig
from .fields import read_object
from .weight_files import ADAPTER, INDEX, weight_files

FORMATS: Final = ("ministral3", "gguf", "transformers")
_PREFIXES: Final = {"encoder.": "model.", "diffusion_head.": "lm_head."}
_SAME: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
_MARKERS: Final = ("bos_token_id", "pad_token_id")
_CACHE_SCALES: Final = (".k_scale", ".v_scale")


def export(source: Path, out: Path, kind: str = "ministral3", stored: str | None = None) -> list[str]:
    """Writes the checkpoint `source` to `out`; returns what could not be written, in sentences.

    `kind` ministral3: from a directory to an empty or new one, weights in their dtype. gguf: from a directory or a GGUF
    file to a new file, matrices as `stored` (`gguf.writer.TYPES`). transformers: from a GGUF file to an empty or new
    directory, weights as `stored` (`gguf.written_directory.DTYPES`). Raises CheckpointError (source) and RequestError
    (unknown `kind` or `stored`, `out` is there).
    """
    if kind not in FORMATS:
        raise RequestError(f"export format {kind!r}: expected one of {', '.join(FORMATS)}")
    if kind == "gguf":
        from .gguf.writer import write_gguf

        return _causal_only(source) + write_gguf(source, out, stored)
    _check_empty(out)
    if kind == "transformers":
        from .gguf.written_directory import write_directory

        return write_directory(source, out, stored)
    if stored is not None:
        raise RequestError(f"type {stored!r}: {kind} keeps the weights' dtype; leave the type out")
    return _ministral3(source, out)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} is there already; export to a directory that is new or empty")


def _causal_only(source: Path) -> list[str]:
    """What a causal model lacks of the checkpoint `source`."""
    if source.is_file():
        return []
    if not source.is_dir():
        raise CheckpointError(f"no checkpoint directory or GGUF file at {source}")
    config = ModelConfig.load(source)
    adapter = [_adapter_left()] if (source / ADAPTER).is_dir() else []
    return left_out(source, config) if config.family.masks else adapter


def _ministral3(source: Path, out: Path) -> list[str]:
    if source.is_file():
        raise CheckpointError(
            f"{source} is a GGUF file; ministral3 is written from an NLD directory, --format transformers from such "
            "a file"
        )
    if not source.is_dir():
        raise CheckpointError(f"no checkpoint directory at {source}")
    config, files = ModelConfig.load(source), weight_files(source)
    tokenizer = source / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(f"no tokenizer.json in {source}; a checkpoint needs its tokenizer beside the weights")
    out.mkdir(parents=True, exist_ok=True)
    fields = read_object(source / "config.json")
    _write(out / "config.json", ministral3_config(fields, config))
    _write(out / "generation_config.json", _generation(fields, config))
    _write(out / "tokenizer_config.json", _tokenizer_config(source, fields, config))
    for name in ("tokenizer.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    _write_weights(files, out, config.tie_word_embeddings)
    return left_out(source, config)


def left_out(source: Path, config: ModelConfig) -> list[str]:
    """Returns what a causal model of transformers cannot express, one sentence each."""
    found = [
        f"mask token {config.mask_token_id}: only the id itself remains; trimode never emits it, another engine may "
        f"(transformers: suppress_tokens=[{config.mask_token_id}])",
        f"block size {config.block_size}: the block modes (diffusion, self-speculation) exist in trimode only",
    ]
    if (source / ADAPTER).is_dir():
        found.insert(0, _adapter_left())
    return found


def _adapter_left() -> str:
    return f"draft adapter {ADAPTER}/: used while drafting only, no effect on causal output"


def ministral3_config(fields: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Returns the keys of `Ministral3Config` from the `fields` of an NLD config.json."""
    return {
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        **{key: getattr(config, key) for key in _SAME},
        # Written even if None, because Ministral3Config would fill in ids of Mistral's own vocabulary.
        **{key: fields.get(key) for key in _MARKERS},
        "eos_token_id": fields["eos_token_id"],
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "sliding_window": None,
        "use_cache": True,
        "dtype": fields.get("dtype") or fields.get("torch_dtype") or "float32",
        "rope_parameters": _rope(fields["rope_parameters"], config),
        **({OWN: fields[OWN]} if OWN in fields else {}),  # other engines keep it as an unknown key
    }


def _rope(found: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Returns rope settings for Ministral3, which always scales queries: without Llama-4 scaling the factor is 0.

    It needs some context length in that case too.
    """
    rope = config.rope
    yarn = {key: value for key, value in found.items() if key != "type" and value is not None}
    return {
        **(yarn if rope.kind == "yarn" else {"rope_theta": rope.theta}),
        "rope_type": rope.kind,
        "original_max_position_embeddings": rope.original_max_position_embeddings or config.max_position_embeddings,
        "llama_4_scaling_beta": rope.llama_4_scaling_beta or 0.0,
    }


def _generation(fields: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    tokens = {key: fields[key] for key in _MARKERS if fields.get(key) is not None}
    return {"do_sample": False, "eos_token_id": list(config.eos_token_ids), **tokens}


def _tokenizer_config(source: Path, fields: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Returns the source's own settings, with the texts of the begin and end markers if it does not name them."""
    path = source / "tokenizer_config.json"
    known = read_object(path) if path.is_file() else {}
    markers = {"bos_token": fields.get("bos_token_id"), "eos_token": config.eos_token_ids[0]}
    tokenizer = RawTokenizer.from_file(str(source / "tokenizer.json"))
    named = {key: tokenizer.id_to_token(token) for key, token in markers.items() if isinstance(token, int)}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **named, **known}


def _write_weights(files: list[Path], out: Path, tied: bool) -> None:
    """Writes `files` under the same names, and the shard index if there are several."""
    places: dict[str, str] = {}
    size = 0
    for path in files:
        tensors = _renamed(path, tied)
        size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        places |= dict.fromkeys(tensors, path.name)
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    if len(files) > 1:
        _write(out / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})


def _renamed(path: Path, tied: bool) -> dict[str, Tensor]:
    """Returns the tensors of one file under the names of transformers, without a tied head, which is the embedding."""
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.endswith(_CACHE_SCALES)]  # noqa: SIM118  no mapping
            found = {_name(name, path): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    return {name: tensor for name, tensor in found.items() if not (tied and name == "lm_head.weight")}


def _name(name: str, path: Path) -> str:
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"{path}: expected tensor names that begin with {' or '.join(_PREFIXES)}, found {name!r}")


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
