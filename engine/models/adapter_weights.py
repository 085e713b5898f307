"""Draft adapters in PEFT's files: tensors to modules and back.

Knows file and tensor names. Does not know what an adapter is for. The names of PEFT are those of the base's modules
under `base_model.model.`; names and shapes that are not the base's are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from ..errors import CheckpointError
from .adapter import PROJECTIONS, Rank, adapter_config, module_name, read_adapter_config
from .model import Transformer
from .tensors import check_finite, compare, read_tensors

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_ROOT: Final = "base_model.model."
"""What PEFT puts in front of the base's own names."""


def check_files(directory: Path) -> None:
    """Raises CheckpointError if a file of the adapter is missing."""
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} has no {name}, which an adapter needs: {CONFIG} and {WEIGHTS}")


def load_adapter(model: Transformer, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
    """Adds the adapter of `directory` to `model`. Raises CheckpointError."""
    check_files(directory)
    prefix = _prefix(model)
    ranks = read_adapter_config(directory / CONFIG, model.config.num_hidden_layers, prefix)
    with torch.device("meta"):  # sizes are compared before memory is taken
        adapter = model.add_adapters(ranks)
    found = dict(read_tensors([directory / WEIGHTS], dtype, device))
    check_finite(found, directory)
    stored = {name: _stored(name, prefix) for name in adapter.state_dict()}
    compare(
        {stored[name]: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()},
        {name: tuple(tensor.shape) for name, tensor in found.items()},
        directory,
    )
    adapter.load_state_dict({ours: found[theirs] for ours, theirs in stored.items()}, assign=True)
    adapter.eval().requires_grad_(False)


def save_adapter(model: Transformer, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the draft adapter with PEFT's names, in `dtype`."""
    if model.adapter is None:
        raise ValueError("the model has no adapter to save")
    directory.mkdir(parents=True, exist_ok=True)
    prefix = _prefix(model)
    layers = [model.adapter_terms(layer) for layer in range(len(model.adapter))]
    ranks = [{name: Rank(term.lora_A.out_features, term.scale) for name, term in layer.items()} for layer in layers]
    text = json.dumps(adapter_config(ranks, prefix), indent=2) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    state = {
        _stored(name, prefix): x.detach().to("cpu", dtype).contiguous()
        for name, x in model.adapter.state_dict().items()
    }
    save_file(state, directory / WEIGHTS, metadata={"format": "pt"})


def _prefix(model: Transformer) -> str:
    """Returns what the names of the base's layers begin with in its family's files."""
    return model.config.family.stored("encoder.")


def _stored(name: str, prefix: str) -> str:
    """Returns the PEFT name in the file of `3.o_proj.lora_A.weight` of the module list."""
    layer, projection, part, _ = name.split(".")
    assert projection in PROJECTIONS
    return f"{_ROOT}{module_name(prefix, int(layer), projection)}.{part}.weight"
