"""Checkpoint directories: files to modules and back.

Reads safetensors only, whole or sharded, and the draft adapter that lies with them. Refuses pickle files, unknown
architectures, missing, surplus and misshapen tensors; errors say what was expected and what was found. Does not know
decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trimode.kernels.ops import begin_in_child

from ..errors import CheckpointError
from .adapter_weights import load_adapter, save_adapter
from .config import ModelConfig
from .model import EMBEDDING, HEAD, Transformer
from .stored import StoredMatrices, stored_matrices
from .tensors import TensorFiles, check_finite, compare, read_tensors
from .weight_files import ADAPTER, SINGLE, weight_files


def load_model(
    directory: Path, dtype: torch.dtype, device: torch.device, with_adapter: bool = True, in_files: bool = False
) -> Transformer:
    """Loads the model of `directory` in evaluation mode, with the draft adapter that lies with it, if it is wanted.

    `in_files`: its matrices stay in the files, for kernels that pack them.
    """
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint directory at {directory}")
    begin_in_child()
    config = ModelConfig.load(directory)
    model = (_left_in_files if in_files else _read)(config, directory, dtype, device)
    if with_adapter and (directory / ADAPTER).is_dir():
        load_adapter(model, directory / ADAPTER, dtype, device)
    return model.eval().requires_grad_(False)


def assembled(config: ModelConfig, found: dict[str, Tensor], origin: Path, device: torch.device) -> Transformer:
    """The model of `config` with the tensors `found`, by their names in its family. Raises CheckpointError."""
    _check_sizes(config, {name: tuple(tensor.shape) for name, tensor in found.items()}, origin)
    with torch.device("meta"):
        model = Transformer(config)
    check_finite(found, origin)
    _assign(model, found, origin)
    model.frequencies = model.frequencies.to(device)
    return model.eval().requires_grad_(False)


def _read(config: ModelConfig, directory: Path, dtype: torch.dtype, device: torch.device) -> Transformer:
    found = dict(read_tensors(weight_files(directory), dtype, device, config.family.others))
    return assembled(config, found, directory, device)


def _left_in_files(config: ModelConfig, directory: Path, dtype: torch.dtype, device: torch.device) -> Transformer:
    paths, stored = weight_files(directory), config.family.stored
    files = TensorFiles(paths, config.family.others)
    head, embedding = stored(HEAD), stored(EMBEDDING)
    shapes = dict(files.shapes)
    if config.tie_word_embeddings and head in shapes:
        _tie({name: files.read(name) for name in (head, embedding) if name in shapes}, head, embedding, directory)
        del shapes[head]
    matrices = stored_matrices(directory, paths, lambda name: files.read(stored(name)))
    return assembled_in_files(config, matrices, shapes, dtype, device)


def assembled_in_files(
    config: ModelConfig, matrices: StoredMatrices, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype,
    device: torch.device,
) -> Transformer:  # fmt: skip
    """The model of `config` with its vectors in memory and its `matrices` in their files. `shapes`: of the tensors that
    the files hold, by their names in its family. Raises CheckpointError."""
    _check_sizes(config, shapes, matrices.origin)
    with torch.device("meta"):
        model = Transformer(config)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state[HEAD]
    compare(
        {config.family.stored(name): tuple(tensor.shape) for name, tensor in state.items()}, shapes, matrices.origin
    )
    vectors = {name: matrices.read(name) for name, tensor in state.items() if tensor.ndim == 1}
    numbers = {name: vector.to(device, dtype) for name, vector in vectors.items() if isinstance(vector, Tensor)}
    model.load_state_dict(numbers, strict=False, assign=True)
    model.stored = matrices
    model.frequencies = model.frequencies.to(device)
    return model.eval().requires_grad_(False)


def _check_sizes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], origin: Path) -> None:
    """Raises CheckpointError for sizes beyond all tensors: modules and angles are made before shapes are compared."""
    if config.num_hidden_layers > len(shapes):
        raise CheckpointError(
            f"{origin}: num_hidden_layers={config.num_hidden_layers}, and {len(shapes)} tensors found"
        )
    largest = max(map(prod, shapes.values()))
    for key in ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_attention_heads"):
        if (size := getattr(config, key)) > largest:
            raise CheckpointError(f"{origin}: {key}={size}, and its largest tensor holds {largest} numbers")


def _assign(model: Transformer, found: dict[str, Tensor], origin: Path) -> None:
    stored = {name: model.config.family.stored(name) for name in model.state_dict()}
    if model.config.tie_word_embeddings:
        _tie(found, stored[HEAD], stored[EMBEDDING], origin)
    expected = {stored[name]: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    compare(expected, {name: tuple(tensor.shape) for name, tensor in found.items()}, origin)
    model.load_state_dict({ours: found[theirs] for ours, theirs in stored.items()}, assign=True)
    if model.config.tie_word_embeddings:
        model.diffusion_head.weight = model.encoder.embed_tokens.weight


def _tie(found: dict[str, Tensor], head: str, embedding: str, origin: Path) -> None:
    """Uses the embedding as the LM head; some files store it twice."""
    shared = found.get(embedding, torch.empty(0))
    if not torch.equal(found.setdefault(head, shared), shared):
        raise CheckpointError(f"{origin}: expected {head} to equal {embedding} with tie_word_embeddings, found others")


def save_weights(model: Transformer, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes `model.safetensors` in its family's names and the adapter, if any, in its PEFT folder (fp32, as NLD's).

    Raises WeightsReleased.
    """
    model.must_be_whole("writing a checkpoint")
    stored, state = model.config.family.stored, model.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("adapter.")}
    if model.config.tie_word_embeddings:
        del state[HEAD]
    state = {stored(name): tensor.detach().to(dtype).contiguous() for name, tensor in state.items()}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / SINGLE, metadata={"format": "pt"})
    if model.adapter is not None:
        save_adapter(model, directory / ADAPTER)
