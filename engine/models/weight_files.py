"""The files of a checkpoint directory: their names, which of them hold weights, and one digest over several.

Knows names and bytes. Does not know tensors; needs no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from ..errors import CheckpointError
from .fields import read_object

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "linear_spec_lora"


def weight_files(directory: Path) -> list[Path]:
    """Returns the safetensors files of a checkpoint, from the single file or the shard index."""
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{index}: expected weight_map to map tensor names to file names, found {shards!r}")
        names = sorted(set(shards.values()))
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(f"{index} names shards that are not there: {', '.join(missing)}")
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory} holds pickle weights ({', '.join(pickles)}), which can run code when read; "
            f"expected {SINGLE} or {INDEX}: convert them to safetensors"
        )
    raise CheckpointError(f"expected {SINGLE} or {INDEX} in {directory}, found neither")


def sha256(paths: list[Path]) -> str:
    """Returns one digest over the bytes of several files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
