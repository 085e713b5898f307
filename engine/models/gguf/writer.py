"""Writes a checkpoint as one GGUF file, which llama.cpp and others read, by the package `gguf`.

Knows tensors by name and how their types are stored. What a model or a vocabulary cannot say there is refused or
returned as sentences by `written_config` and `written_tokenizer`. One tensor is in memory at a time. The file is read
again before it gets its name: what our own reader makes of it is the model that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CheckpointError, RequestError
from ..config import ModelConfig
from ..fields import read_object
from ..tensors import tensor_at, tensor_places
from ..tokenizer import Tokenizer
from ..weight_files import weight_files
from .config import ARCHITECTURES, FREQUENCIES, gguf_config
from .file import GgufFile, library
from .tokenizer import end_ids, gguf_tokenizer
from .weights import gguf_tensor, names, shape_of, side_by_side
from .written_config import check_same, config_keys, rope_factors, written_architecture
from .written_tokenizer import tokenizer_keys

TYPES: Final = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3}
"""Types of matrices to llama.cpp's number for files of that type (`general.file_type`)."""
_OF_DTYPE: Final = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
_EXACT: Final = ("f32",)
"""Types that hold whatever a source stores, blocks as their numbers in fp32; the others hold their own kind alone."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint to write: config, tokenizer, tensors by our names, and how its matrices are stored."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    bos: int | None
    tensor: Callable[[str], Tensor]
    stored: str


def write_gguf(source: Path, out: Path, kind: str | None = None) -> list[str]:
    """Writes the checkpoint `source` to the new file `out`, matrices as `kind`; returns what could not be written.

    `kind`: one of `TYPES`; None for that of a directory's own weights. Raises CheckpointError (source) and RequestError
    (`kind`, `out`).
    """
    _check(source, out, kind)
    opened = _of_file(source) if source.is_file() else _of_directory(source)
    kind = kind or opened.stored
    part = out.with_name(out.name + ".part")
    try:
        missing = _written(opened, part, kind) + _read_again(opened, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    if kind not in (*_EXACT, opened.stored):
        missing.append(f"precision: matrices were {opened.stored}, and are {kind} in the file")
    return missing


def _check(source: Path, out: Path, kind: str | None) -> None:
    if kind is not None and kind not in TYPES:
        raise RequestError(f"type {kind!r}: expected one of {', '.join(TYPES)}")
    if kind is None and source.is_file():
        raise RequestError(f"{source} is a GGUF file already; name the type to write: one of {', '.join(TYPES)}")
    if out.suffix != ".gguf" or out.exists():
        raise RequestError(f"expected the name of a new file that ends in .gguf, found {out}")
    if not out.parent.is_dir():
        raise RequestError(f"{out}: there is no directory {out.parent}")


def _of_directory(directory: Path) -> Source:
    config, places = ModelConfig.load(directory), tensor_places(weight_files(directory))
    bos = read_object(directory / "config.json").get("bos_token_id")
    stored = config.family.stored

    def tensor(name: str) -> Tensor:
        return tensor_at(places, stored(name), directory)

    kind = _OF_DTYPE.get(tensor("encoder.embed_tokens.weight").dtype, "f32")
    return Source(directory, config, Tokenizer.load(directory), bos if isinstance(bos, int) else None, tensor, kind)


def _of_file(path: Path) -> Source:
    file = GgufFile.read(path)
    config, tokenizer = gguf_config(file), gguf_tokenizer(file)
    kinds = {place.kind.lower() for place in file.places.values() if len(place.shape) == 2}
    stored = kinds.pop() if len(kinds) == 1 else " and ".join(sorted(kinds))
    return Source(path, config, tokenizer, None, lambda name: gguf_tensor(file, config, name), stored)


def _written(source: Source, path: Path, kind: str) -> list[str]:
    """Writes the file at `path`."""
    name = written_architecture(source.config, source.path)
    known = tokenizer_keys(
        source.tokenizer, source.config.vocab_size, source.config.eos_token_ids, source.bos, str(source.path)
    )
    factors = rope_factors(source.config, name, source.path)
    keys = {**config_keys(source.config, name, source.path), **known.keys}
    writer = library().GGUFWriter(path, name)
    try:
        for key, value in {**_general(source, kind), **keys}.items():
            _add(writer, key, value)
        for tensor, shape in _shapes(source.config, factors).items():
            stored, size = _stored(tensor, shape, kind, source.path)
            writer.add_tensor_info(tensor, shape, np.dtype(np.float32), size, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, array in _arrays(source, name, factors):
            writer.write_tensor_data(_packed(tensor, array, kind, source.path))
    finally:
        writer.close()
    return known.missing


def _general(source: Source, kind: str) -> dict[str, Any]:
    found = {"general.type": "model", "general.name": source.path.resolve().stem, "general.file_type": TYPES[kind]}
    return {**found, "general.quantization_version": 2} if kind.startswith("q") else found


def _add(writer: Any, key: str, value: Any) -> None:
    """Adds one key of metadata by the type of its value."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _shapes(config: ModelConfig, factors: NDArray[np.float32] | None) -> dict[str, tuple[int, ...]]:
    """Shapes by llama.cpp's names, rows first, in the order of the file."""
    found = {} if factors is None else {FREQUENCIES: factors.shape}
    return {**found, **{theirs: shape_of(config, theirs) for theirs in names(config).values()}}


def _arrays(
    source: Source, name: str, factors: NDArray[np.float32] | None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Tensors as fp32 by llama.cpp's names, in the order of `_shapes`, each read when it is asked for."""
    if factors is not None:
        yield FREQUENCIES, factors
    for ours, theirs in names(source.config).items():
        tensor = source.tensor(ours)
        if tuple(tensor.shape) != (shape := shape_of(source.config, theirs)):
            raise CheckpointError(f"{source.path}: {ours}: expected {list(shape)}, found {list(tensor.shape)}")
        if ARCHITECTURES[name].interleaved and theirs.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = side_by_side(tensor, source.config.head_dim)
        yield theirs, np.ascontiguousarray(tensor.float().numpy())


def _stored(name: str, shape: tuple[int, ...], kind: str, origin: Path) -> tuple[Any, int]:
    """How a tensor of `shape` is stored, and its bytes. Norms and factors are always fp32, as llama.cpp wants them."""
    gguf = library()
    meant = gguf.GGMLQuantizationType[kind.upper() if len(shape) == 2 else "F32"]
    block, size = gguf.GGML_QUANT_SIZES[meant]
    if shape[-1] % block:
        raise CheckpointError(f"{origin}: rows of {name} have {shape[-1]} numbers, no multiple of {kind}'s {block}")
    return meant, int(np.prod(shape)) // block * size


def _packed(name: str, array: NDArray[np.float32], kind: str, origin: Path) -> NDArray[Any]:
    """The tensor as it is stored. Raises CheckpointError for numbers that are not finite there."""
    gguf = library()
    with np.errstate(over="ignore"):
        packed: NDArray[Any] = gguf.quantize(array, _stored(name, array.shape, kind, origin)[0])
    if not np.isfinite(packed if packed.dtype == np.float16 else array).all():
        raise CheckpointError(f"{origin}: numbers of {name} are not finite as {kind}; export another type")
    return packed


def _read_again(source: Source, path: Path) -> list[str]:
    """What ends a text in the file and not in the source. Raises CheckpointError where it holds another model."""
    file = GgufFile.read(path)
    check_same(gguf_config(file), source.config, source.path)
    gguf_tokenizer(file)
    more = [at for at in end_ids(file) if at not in source.config.eos_token_ids]
    marks = ", ".join(f"{source.tokenizer.token(at)} ({at})" for at in more)
    return [f"ends: readers of GGUF end a text at {marks} as well, by its name"] if more else []
