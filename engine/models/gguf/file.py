"""The header of a GGUF file: metadata, and where each tensor lies. Read here, because every number in it may be a lie.

Knows the container, versions 2 and 3, little-endian. Does not know what a key means or how a block of weights is
dequantised. Nothing is allocated that the file's own length does not pay for: counts, lengths and dimensions are
compared with the bytes that are left before anything is made of them. `gguf`'s own reader trusts them, and makes four
arrays of each token (2.5 s for SmolLM2, which are 0.1 s here). Sizes in bytes.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from ...errors import CheckpointError

MAGIC: Final = b"GGUF"
READS: Final = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip
"""The tensor types that are read."""
_VERSIONS: Final = (2, 3)
_MOST_DIMENSIONS: Final = 4
_MOST_ENTRIES: Final = 1 << 16
"""Of keys, and of tensors: a model of 1,000 layers has 11,000."""
_MOST_STRINGS: Final = 1 << 22
"""In one list. The largest vocabularies have 300,000 tokens; a Python string takes 50 bytes where a file needs 8."""
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_LAYOUTS: Final = {form: struct.Struct("<" + form) for form in _SCALARS.values()}
_BOOL, _STRING, _ARRAY = 7, 8, 9


def library() -> ModuleType:
    """The package `gguf`, which is an extra. Raises CheckpointError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise CheckpointError("reading GGUF files needs the package gguf: pip install 'trimode[gguf]'") from None
    return gguf


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies: `start` from the beginning of the file, `shape` with rows first, `kind` by gguf's name."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """One file: its metadata, tensors by name in the order of the file, and its bytes."""

    path: Path
    metadata: dict[str, Any]
    places: dict[str, Place]
    data: mmap.mmap

    @classmethod
    def read(cls, path: Path) -> GgufFile:
        """Raises CheckpointError for what is no GGUF file, damaged, of an unknown version or with unknown tensors."""
        if not path.is_file():  # opening a pipe would wait for its writer
            raise CheckpointError(f"{path} cannot be read: expected a file there, found {_found(path)}")
        try:
            with path.open("rb") as file:
                if file.read(4) != MAGIC:
                    raise CheckpointError(
                        f"{path} is not a GGUF file: it does not begin with {MAGIC!r}; a checkpoint is a directory "
                        "with config.json and safetensors, or one GGUF file"
                    )
                library()
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        header = _Header(path, data)
        metadata, places = header.read()
        return cls(path, metadata, places, data)

    def forget(self, place: Place) -> None:
        """Lets go of the memory that reading `place` mapped; it can be read again."""
        if hasattr(self.data, "madvise"):
            begin = place.start - place.start % mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, begin, place.start + place.size - begin)

    def error(self, said: str) -> CheckpointError:
        """A CheckpointError that names the file."""
        return CheckpointError(f"{self.path}: {said}")

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value at `key`, of `kind`; `default` where there is none. Raises CheckpointError for another kind."""
        found = self.metadata.get(key)
        if found is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            names = " or ".join(each.__name__ for each in kinds)
            raise self.error(f"expected {key} to be {names}, found {_shown(found)}")
        return found


class _Header:
    """A cursor over the header that never leaves the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 4

    def error(self, said: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not a whole GGUF file, or not one that can be read: {said}")

    def read(self) -> tuple[dict[str, Any], dict[str, Place]]:
        version = self.number("I", "the version")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            why = ", written for big-endian machines" if swapped in _VERSIONS else ""
            raise self.error(
                f"expected version 2 or 3, found {version if not why else swapped}{why}; convert it again with a "
                "current llama.cpp"
            )
        tensors, keys = self.number("Q", "the number of tensors"), self.number("Q", "the number of keys")
        for what, count, least in (("keys", keys, 13), ("tensors", tensors, 24)):
            self.payable(f"{count} {what}", count, least)
            if count > _MOST_ENTRIES:
                raise self.error(f"expected at most {_MOST_ENTRIES} {what}, found {count}")
        metadata = self.metadata(keys)
        infos = [self.tensor() for _ in range(tensors)]
        return metadata, self.placed(infos, metadata)

    def payable(self, what: str, count: int, least: int) -> None:
        """Raises CheckpointError if `count` things of `least` bytes each cannot be in the rest of the file."""
        left = len(self.data) - self.at
        if count * least > left:
            raise self.error(f"{what} at byte {self.at} cannot be in the {left} bytes that are left")

    def number(self, form: str, what: str) -> Any:
        layout = _LAYOUTS[form]
        self.payable(what, 1, layout.size)
        self.at += layout.size
        return layout.unpack_from(self.data, self.at - layout.size)[0]

    def string(self, what: str) -> str:
        length = self.number("Q", what)
        self.payable(what, length, 1)
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} at byte {self.at - length} is not UTF-8 ({error.reason})") from None

    def metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.string("a key")
            if key in found:
                raise self.error(f"the key {key!r} is there twice")
            found[key] = self.value(key, self.number("I", f"the type of {key!r}"))
        return found

    def value(self, key: str, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], repr(key))
        if kind == _STRING:
            return self.string(repr(key))
        if kind == _BOOL:
            said = self.number("B", repr(key))
            if said > 1:
                raise self.error(f"expected {key!r} to be 0 or 1, as its type says, found {said}")
            return said == 1
        if kind == _ARRAY:
            return self.array(key)
        raise self.error(f"{key!r} has the unknown type {kind}")

    def array(self, key: str) -> list[Any]:
        kind, count = self.number("I", f"the type of {key!r}"), self.number("Q", f"the length of {key!r}")
        if kind == _STRING:
            self.payable(f"{key!r} with {count} strings", count, 8)
            if count > _MOST_STRINGS:
                raise self.error(f"expected {key!r} to hold at most {_MOST_STRINGS} strings, found {count}")
            what = repr(key)
            return [self.string(what) for _ in range(count)]
        form = "B" if kind == _BOOL else _SCALARS.get(kind)
        if form is None:
            raise self.error(f"{key!r} is an array of type {kind}; expected numbers or strings")
        size = _LAYOUTS[form].size
        self.payable(f"{key!r} with {count} numbers", count, size)
        if count > _MOST_STRINGS:
            raise self.error(f"expected {key!r} to hold at most {_MOST_STRINGS} numbers, found {count}")
        self.at += count * size
        numbers: list[Any] = np.frombuffer(self.data, f"<{form}", count, self.at - count * size).tolist()
        return [bool(number) for number in numbers] if kind == _BOOL else numbers

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape with rows first, the number of its type, and its start behind the header."""
        name = self.string("a tensor's name")
        dimensions = self.number("I", f"the number of dimensions of {name!r}")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self.error(f"expected 1 to {_MOST_DIMENSIONS} dimensions of {name!r}, found {dimensions}")
        shape = tuple(self.number("Q", f"a dimension of {name!r}") for _ in range(dimensions))
        return name, shape[::-1], self.number("I", f"the type of {name!r}"), self.number("Q", f"the start of {name!r}")

    def placed(self, infos: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]) -> dict[str, Place]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.error(f"expected general.alignment to be a power of two up to 1 MiB, found {_shown(alignment)}")
        begin = -(-self.at // alignment) * alignment
        places: dict[str, Place] = {}
        for name, shape, kind, start in infos:
            if name in places:
                raise self.error(f"the tensor {name!r} is there twice")
            known, size = self.sized(name, shape, kind)
            if start % alignment or begin + start + size > len(self.data):
                raise self.error(
                    f"{name!r} with {size} bytes at byte {begin + start} does not lie in the {len(self.data)} bytes of "
                    f"the file, at a multiple of {alignment}; it may have been cut off: compare its length with the "
                    "source's"
                )
            places[name] = Place(name, known, shape, begin + start, size)
        self.apart(places)
        return places

    def sized(self, name: str, shape: tuple[int, ...], kind: int) -> tuple[str, int]:
        """The name of the type and the bytes of a tensor of it."""
        gguf = library()
        try:
            known = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise self.error(f"{name!r} has the unknown type {kind}") from None
        if known.name not in READS:
            raise self.error(
                f"{name!r} is stored as {known.name}, which is not read; known are {', '.join(READS)}. Take a file of "
                "one of these, or llama-quantize --allow-requantize FILE OUT Q8_0"
            )
        block, size = gguf.GGML_QUANT_SIZES[known]
        if not prod(shape) or shape[-1] % block:
            raise self.error(f"{name!r} with shape {list(shape)}: expected rows of whole blocks of {block}")
        return known.name, prod(shape) // block * size

    def apart(self, places: dict[str, Place]) -> None:
        """Raises CheckpointError where tensors share bytes: a small file could claim any size that way."""
        end, before = 0, ""
        for place in sorted(places.values(), key=lambda place: place.start):
            if place.start < end:
                raise self.error(f"{place.name!r} begins inside {before!r}")
            end, before = place.start + place.size, place.name


def _found(path: Path) -> str:
    return "a directory" if path.is_dir() else "a pipe or device" if path.exists() else "nothing"


def _shown(value: object) -> str:
    """A value in an error: long ones by their beginning."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
