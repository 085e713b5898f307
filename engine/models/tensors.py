"""Tensors of safetensors files: read, found finite, and compared by name and shape with what a model needs.

Knows names and shapes. Does not know modules. Errors say what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

# Scales of FP8-KV checkpoints, because the cache has the model's dtype here, and rope frequencies of old Llama files,
# because config.json defines them.
_IGNORED_SUFFIXES: Final = (".k_scale", ".v_scale", ".rotary_emb.inv_freq")


def read_tensors(
    files: list[Path], dtype: torch.dtype, device: torch.device, others: tuple[str, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Yields the names and tensors of all files, in `dtype` on `device`, without names that begin with `others`."""
    for path in files:
        with _opened(path, str(device)) as file:
            for name in _wanted(file, others):
                yield name, file.get_tensor(name).to(dtype)


class TensorFiles:
    """The tensors of safetensors files by name. A file is mapped for one read at a time, so that what was read before
    does not stay in memory."""

    def __init__(self, files: list[Path], others: tuple[str, ...] = ()) -> None:
        self._files = dict[str, Path]()
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in files:
            with _opened(path) as file:
                for name in _wanted(file, others):
                    self._files[name], self.shapes[name] = path, tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor, as it is stored. Raises CheckpointError for one with numbers that are not finite."""
        path = self._files[name]
        with _opened(path) as file:
            tensor: Tensor = file.get_tensor(name).clone()
        check_finite({name: tensor}, path)
        return tensor


@contextmanager
def _opened(path: Path, device: str = "cpu") -> Generator[Any]:
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def _wanted(file: Any, others: tuple[str, ...]) -> list[str]:
    return [name for name in file.keys() if not name.endswith(_IGNORED_SUFFIXES) and not name.startswith(others)]  # noqa: SIM118  safe_open is no mapping


def tensor_places(files: list[Path]) -> dict[str, Path]:
    """The names of all tensors to the files that hold them, without reading one. Raises CheckpointError."""
    found: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    return found


def tensor_at(places: Mapping[str, Path], name: str, origin: Path) -> Tensor:
    """One tensor of `places` in its own dtype. Raises CheckpointError where it is not there."""
    if name not in places:
        raise CheckpointError(f"{origin}: expected a tensor {name}, found none of that name")
    with safe_open(places[name], framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found


def check_finite(found: Mapping[str, Tensor], origin: Path) -> None:
    """Raises CheckpointError for tensors that hold NaN or infinity. One more read of what was just read."""
    bad = [name for name, tensor in found.items() if tensor.numel() and not _finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{origin}: expected finite weights, found NaN or infinity in {_some(bad)}: the file is damaged, or its "
            "numbers overflow the dtype asked for; compare the files with their source, or load with dtype='float32'"
        )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], origin: Path) -> None:
    """Raises CheckpointError if names or shapes differ."""
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
