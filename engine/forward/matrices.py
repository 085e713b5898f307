"""The matrices of a model in the kernels' form: of modules in memory, or of a checkpoint's files, kept in a file.

Knows which projections a product joins, roundings, and the file that packed matrices are kept in. Does not know
passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor

from trimode.kernels.ops import (
    Blocks,
    Kernels,
    Packed,
    PackFile,
    PackFileUnusable,
    Precision,
    cache_folder,
    from_blocks,
    joined_blocks,
    remove_superseded_pack_files,
    rounded,
    write_pack_file,
)

from ..errors import CheckpointError
from ..models.adapter import PROJECTIONS
from ..models.model import EMBEDDING, HEAD, Layer, Linear, Transformer
from ..models.stored import StoredMatrices

PRODUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Projections by the product that computes them together, in the order of its outputs."""
WORTH_KEEPING: Final = 32 << 20
"""Bytes of a checkpoint below which packing takes less time than a file is worth."""


class Matrices(Protocol):
    """Matrices in the kernels' form. `table`: the embedding. `note`: what a user should know about them, or nothing."""

    note: str
    table: Any

    def product(self, layer: int, name: str) -> Any: ...
    def head(self) -> Any: ...


class ModuleMatrices:
    """Of a model in memory. Matrices with the same inputs become one, of which the model's weights are views; with
    `release` the model releases each that is rounded, so that memory never has two copies of more than one."""

    note = ""

    def __init__(
        self, model: Transformer, kernels: Kernels, precision: Precision | None, whole_head: bool, release: bool
    ) -> None:
        self._model, self._kernels, self._whole_head = model, kernels, whole_head
        self._precision: Precision | None = precision
        self._release = release and precision is not None
        self.table: Tensor = model.encoder.embed_tokens.weight

    def product(self, layer: int, name: str) -> Any:
        module = cast(Layer, self._model.encoder.layers[layer])
        return self._kept([_projection(module, part) for part in PRODUCTS[name]], self._precision)

    def head(self) -> Any:
        return self._kept([self._model.diffusion_head], None if self._whole_head else self._precision)

    def _kept(self, layers: Sequence[Linear], precision: Precision | None) -> Any:
        if precision is None:
            return self._kernels.prepare(joined(layers))
        made = _rounded(torch.cat([layer.weight for layer in layers]), precision, self._kernels)
        if self._release:
            for layer in layers:
                layer.release(self.table)
        return made


class FileMatrices:
    """Of a checkpoint's files, as they are stored. The packed ones are mapped from a file in the cache folder, which
    the first load writes, where the checkpoint is large enough and the folder takes it; `note` says where it does not.

    `whole`: blocks become whole matrices.
    """

    def __init__(
        self, stored: StoredMatrices, model: Transformer, kernels: Kernels, precision: Precision | None,
        whole_head: bool, whole: bool,
    ) -> None:  # fmt: skip
        self._stored, self._kernels, self._whole = stored, kernels, whole
        self.note: str = ""
        self._plan = _plan(model, precision, whole_head)
        found = self._kept_in_file(f"{precision} {whole_head} {whole}")
        self._found = found if found is not None else dict(self._made())
        self.table: Any = self._found.get("table", self._found["head"])

    def product(self, layer: int, name: str) -> Any:
        return self._found[f"{layer}.{name}"]

    def head(self) -> Any:
        return self._found["head"]

    def _made(self) -> Iterator[tuple[str, Any]]:
        for name, (parts, precision) in self._plan.items():
            yield name, self._joined(parts, precision)

    def _joined(self, names: Sequence[str], precision: Precision | None) -> Any:
        """Returns matrices with the same inputs as one, in the kernels' form."""
        parts = [self._stored.read(name) for name in names]
        blocks = [part for part in parts if isinstance(part, Blocks)]
        alike = len(blocks) == len(parts) and len({part.form for part in blocks}) == 1
        if alike and precision is None and not self._whole:
            return _prepared(self._kernels, blocks[0] if len(blocks) == 1 else joined_blocks(blocks))
        numbers = [from_blocks(part) if isinstance(part, Blocks) else part for part in parts]
        matrix = numbers[0] if len(numbers) == 1 else torch.cat(numbers)
        return _prepared(self._kernels, matrix) if precision is None else _rounded(matrix, precision, self._kernels)

    def _kept_in_file(self, rounding: str) -> dict[str, Packed] | None:
        if not self._kernels.packing or self._stored.size < WORTH_KEEPING:
            return None
        packer, path = self._kernels.packer, _path(self._stored, rounding, self._kernels.packing)
        try:
            return PackFile.open(path, packer).matrices
        except (OSError, PackFileUnusable):
            pass  # none there, or one that is damaged: a new one takes its place
        try:
            write_pack_file(path, packer, self._made())
            remove_superseded_pack_files(path)
            return PackFile.open(path, packer).matrices
        except (OSError, PackFileUnusable) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.note = f"packed weights not kept in {path.parent}: {said}"
            return None


def joined(layers: Sequence[Linear]) -> Tensor:
    """Joins the layers' matrices to one [sum of outputs, in]; the layers' weights become views of it.

    So they are in memory once. Parameters stay the same objects; a second call finds them joined.
    """
    weights = [layer.weight.detach() for layer in layers]
    first, rows = weights[0], [len(weight) for weight in weights]
    fused = (
        first.as_strided((sum(rows), first.shape[1]), first.stride(), first.storage_offset())
        if _lined_up(weights)
        else torch.cat(weights)
    )
    for layer, part in zip(layers, fused.split(rows), strict=True):
        layer.weight.data = part
    return fused


def _lined_up(weights: Sequence[Tensor]) -> bool:
    """Returns whether the matrices are adjacent in one storage, in order."""
    ends = accumulate((weight.numel() for weight in weights), initial=weights[0].storage_offset())
    places = {weight.untyped_storage().data_ptr() for weight in weights}
    starts = [weight.storage_offset() for weight in weights]
    return len(places) == 1 and starts == list(ends)[:-1] and all(weight.is_contiguous() for weight in weights)


def _projection(layer: Layer, name: str) -> Linear:
    return cast(Linear, layer.get_submodule(f"{PROJECTIONS[name]}.{name}"))


def _rounded(matrix: Tensor, precision: Precision, kernels: Kernels) -> Any:
    try:
        made = rounded(matrix, precision, bool(kernels.packing))
    except ValueError as error:
        raise CheckpointError(f"quantize={precision!r}: {error}") from None
    return _prepared(kernels, made) if kernels.packing else made


def _prepared(kernels: Kernels, matrix: Any) -> Any:
    return kernels.prepare(matrix)


def _plan(
    model: Transformer, precision: Precision | None, whole_head: bool
) -> dict[str, tuple[list[str], Precision | None]]:
    """Returns the tensors of each matrix and how it is rounded. A tied embedding is the head, if that is whole."""
    found: dict[str, tuple[list[str], Precision | None]] = {
        f"{layer}.{product}": (
            [f"encoder.layers.{layer}.{PROJECTIONS[part]}.{part}.weight" for part in parts],
            precision,
        )
        for layer in range(model.config.num_hidden_layers)
        for product, parts in PRODUCTS.items()
    }
    tied, head = model.config.tie_word_embeddings, None if whole_head else precision
    found["head"] = ([EMBEDDING if tied else HEAD], head)
    if not tied or head is not None:
        found["table"] = ([EMBEDDING], None)
    return found


def _path(stored: StoredMatrices, rounding: str, packing: str) -> Path:
    """Returns the file's path. The first half of its name tells where the source lies and how it is rounded, the second
    one what is there and which kernels packed it: of files with the same first half the older ones are removed."""
    halves = (f"{stored.origin.resolve()} {rounding}", f"{stored.fingerprint} {packing}")
    digests = (hashlib.sha256(half.encode()).hexdigest()[:16] for half in halves)
    return cache_folder() / f"packed-{'-'.join(digests)}.bin"
