"""Checkpoint directories: files to modules and back. The only module that knows file names and adapter names.

Reads safetensors only, whole or sharded, and the PEFT folder of the draft adapter. Refuses pickle files, unknown
architectures, missing, surplus and misshapen tensors; errors say what was expected and what was found. Does not know
decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimode.kernels.ops import begin_in_child

from ..errors import CheckpointError
from .adapter import MODULE, LayerRank, adapter_config, read_adapter_config
from .config import ModelConfig
from .model import LowRank, Transformer
from .weight_files import ADAPTER, SINGLE, weight_files

_ADAPTER_CONFIG: Final = "adapter_config.json"
_ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_ADAPTER_NAME: Final = f"base_model.model.{MODULE}.{{part}}.weight"
_HEAD: Final = "diffusion_head.weight"
_EMBEDDING: Final = "encoder.embed_tokens.weight"
# Scales of FP8-KV checkpoints, because the cache has the model's dtype here, and rope frequencies of old Llama files,
# because config.json defines them.
_IGNORED_SUFFIXES: Final = (".k_scale", ".v_scale", ".rotary_emb.inv_freq")


def load_model(directory: Path, dtype: torch.dtype, device: torch.device) -> Transformer:
    """Loads the model of `directory` with its draft adapter, if it has one, in evaluation mode."""
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint directory at {directory}")
    begin_in_child()
    config = ModelConfig.load(directory)
    found = dict(_tensors(weight_files(directory), dtype, device, config.family.others))
    model = assembled(config, found, directory, device)
    _load_adapter(model, directory / ADAPTER, dtype, device)
    return model.eval().requires_grad_(False)


def assembled(config: ModelConfig, found: dict[str, Tensor], origin: Path, device: torch.device) -> Transformer:
    """The model of `config` with the tensors `found`, by their names in its family. Raises CheckpointError."""
    _check_sizes(config, found, origin)
    with torch.device("meta"):
        model = Transformer(config)
    _check_finite(found, origin)
    _assign(model, found, origin)
    model.frequencies = model.frequencies.to(device)
    return model.eval().requires_grad_(False)


def _check_sizes(config: ModelConfig, found: Mapping[str, Tensor], origin: Path) -> None:
    """Raises CheckpointError for sizes beyond all tensors: modules and angles are made before shapes are compared."""
    if config.num_hidden_layers > len(found):
        raise CheckpointError(f"{origin}: num_hidden_layers={config.num_hidden_layers}, and {len(found)} tensors found")
    largest = max(tensor.numel() for tensor in found.values())
    for key in ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_attention_heads"):
        if (size := getattr(config, key)) > largest:
            raise CheckpointError(f"{origin}: {key}={size}, and its largest tensor holds {largest} numbers")


def _tensors(
    files: list[Path], dtype: torch.dtype, device: torch.device, others: tuple[str, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118  safe_open is no mapping
                    if not name.endswith(_IGNORED_SUFFIXES) and not name.startswith(others):
                        yield name, file.get_tensor(name).to(dtype)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def _check_finite(found: Mapping[str, Tensor], origin: Path) -> None:
    """Raises CheckpointError for tensors that hold NaN or infinity. One more read of what was just read."""
    bad = [name for name, tensor in found.items() if tensor.numel() and not _finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{origin}: expected finite weights, found NaN or infinity in {_some(bad)}: the file is damaged, or its "
            "numbers overflow the dtype asked for; compare the files with their source, or load with dtype='float32'"
        )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _assign(model: Transformer, found: dict[str, Tensor], origin: Path) -> None:
    stored = {name: model.config.family.stored(name) for name in model.state_dict()}
    if model.config.tie_word_embeddings:
        _tie(found, stored[_HEAD], stored[_EMBEDDING], origin)
    expected = {stored[name]: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _compare(expected, {name: tuple(tensor.shape) for name, tensor in found.items()}, origin)
    model.load_state_dict({ours: found[theirs] for ours, theirs in stored.items()}, assign=True)
    if model.config.tie_word_embeddings:
        model.diffusion_head.weight = model.encoder.embed_tokens.weight


def _tie(found: dict[str, Tensor], head: str, embedding: str, origin: Path) -> None:
    """Uses the embedding as the LM head; some files store it twice."""
    shared = found.get(embedding, torch.empty(0))
    if not torch.equal(found.setdefault(head, shared), shared):
        raise CheckpointError(f"{origin}: expected {head} to equal {embedding} with tie_word_embeddings, found others")


def _compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], origin: Path) -> None:
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        raise CheckpointError(
            f"{origin}: tensor names differ from the config; missing: {_some(missing)}; unexpected: {_some(surplus)}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(f"{origin}: {name}: expected shape {list(shape)}, found {list(found[name])}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _load_adapter(model: Transformer, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
    if not directory.is_dir():
        return
    path = directory / _ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} has no {_ADAPTER_CONFIG}")
    ranks = read_adapter_config(path, model.config.num_hidden_layers)
    if not (directory / _ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"expected {_ADAPTER_WEIGHTS} in {directory}, found none")
    adapter = model.add_adapters(ranks)
    found = dict(_tensors([directory / _ADAPTER_WEIGHTS], dtype, device))
    _check_finite(found, directory)
    named = {_adapter_key(name): tensor for name, tensor in adapter.state_dict().items()}
    _compare(
        {name: tuple(tensor.shape) for name, tensor in named.items()},
        {name: tuple(tensor.shape) for name, tensor in found.items()},
        directory,
    )
    adapter.load_state_dict({name: found[_adapter_key(name)] for name in adapter.state_dict()}, assign=True)


def _adapter_key(name: str) -> str:
    """Returns the PEFT name in the file of `3.lora_A.weight` of the module list."""
    layer, part, _ = name.split(".")
    return _ADAPTER_NAME.format(layer=layer, part=part)


def save_weights(model: Transformer, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes `model.safetensors` in its family's names and the adapter, if any, in its PEFT folder (fp32, as NLD's).

    Raises WeightsReleased.
    """
    model.must_be_whole("writing a checkpoint")
    stored, state = model.config.family.stored, model.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("adapter.")}
    if model.config.tie_word_embeddings:
        del state[_HEAD]
    state = {stored(name): tensor.detach().to(dtype).contiguous() for name, tensor in state.items()}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / SINGLE, metadata={"format": "pt"})
    if model.adapter is not None:
        save_adapter(model, directory / ADAPTER)


def save_adapter(model: Transformer, directory: Path) -> None:
    """Writes the draft adapter with PEFT's names."""
    if model.adapter is None:
        raise ValueError("the model has no adapter to save")
    directory.mkdir(parents=True, exist_ok=True)
    parts = [cast(LowRank, part) for part in model.adapter]
    fields = adapter_config([LayerRank(int(part.lora_A.weight.shape[0]), part.scale) for part in parts])
    (directory / _ADAPTER_CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    state = {
        _adapter_key(name): tensor.detach().float().contiguous() for name, tensor in model.adapter.state_dict().items()
    }
    save_file(state, directory / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
