"""A file of packed matrices, written once and mapped by every process that uses them.

Knows bytes, names and digests. Does not know whose matrices they are, or when a file is stale: its name says what it
was made of. Layout: the matrices, each from a multiple of `ALIGNED` on; an index in JSON; its length, its sha256 and
`MAGIC`. A file gets its name when it is whole, so none is seen half written, and processes that write at the same time
replace one whole file by another. What a process leaves that was killed while it wrote, the next one removes. Files
whose names begin alike are of the same matrices by other builds: of those the last used ones are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import torch

from .packed import Packed, Packer

MAGIC: Final = b"trimpack"
ALIGNED: Final = 4096
_TAIL: Final = 8 + 32 + len(MAGIC)
_UNFINISHED: Final = "packing-"
KEPT: Final = 2
"""Files of the same matrices that are kept: this build's, and that of another one that may take turns with it."""


class PackFileUnusable(ValueError):
    """A file that is no whole file of packed matrices; the message says why."""


@dataclass(frozen=True, slots=True)
class PackFile:
    """Matrices by name, in memory that is mapped from `path`."""

    path: Path
    matrices: dict[str, Packed]

    @classmethod
    def open(cls, path: Path, packer: Packer) -> PackFile:
        """Maps the file, notes its use as its time of change, and compares every matrix with its digest. Raises
        FileNotFoundError, OSError, PackFileUnusable."""
        with path.open("rb") as file:
            index = _index(path, file)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with suppress(OSError):  # of a folder that is read-only nothing is removed either
            os.utime(path)
        whole = torch.frombuffer(data, dtype=torch.uint8)
        found = dict[str, Packed]()
        for name, entry in index.items():
            part = whole[entry["start"] : entry["start"] + entry["bytes"]]
            if packer.digest(part) != entry["digest"]:
                raise PackFileUnusable(f"{path}: the matrix {name} is damaged")
            found[name] = Packed(part, entry["kind"], entry["inputs"], entry["outputs"])
        return cls(path, found)


def write(path: Path, packer: Packer, matrices: Iterable[tuple[str, Packed]]) -> None:
    """Writes matrices as they come, so that memory has one at a time. Raises OSError: folder read-only or full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED, delete=False) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(cast(IO[bytes], file), packer, matrices)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise


def remove_superseded(path: Path) -> None:
    """Removes files whose names are that of `path` up to the last hyphen, but `path` and the last used others, `KEPT`
    in all. A process that has one mapped keeps what it maps; one that would open it next packs anew."""
    used = dict[Path, int]()
    for other in path.parent.glob(f"{path.name.rpartition('-')[0]}-*{path.suffix}"):
        with suppress(OSError):
            used[other] = other.stat().st_mtime_ns
    used.pop(path, None)
    for other in sorted(used, key=used.__getitem__, reverse=True)[KEPT - 1 :]:
        with suppress(OSError):
            other.unlink()


def _write(file: IO[bytes], packer: Packer, matrices: Iterable[tuple[str, Packed]]) -> None:
    index = dict[str, dict[str, int]]()
    for name, matrix in matrices:
        file.write(bytes(-file.tell() % ALIGNED))
        index[name] = {
            "start": file.tell(), "bytes": matrix.nbytes, "kind": matrix.kind, "inputs": matrix.inputs,
            "outputs": matrix.outputs, "digest": packer.digest(matrix.data),
        }  # fmt: skip
        file.write(matrix.data.numpy().data)
    text = json.dumps(index).encode()
    file.write(text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC)


def _index(path: Path, file: IO[bytes]) -> dict[str, dict[str, Any]]:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    length = int.from_bytes(tail[:8], "little")
    if not tail.endswith(MAGIC) or len(tail) < _TAIL or length > size - _TAIL:
        raise PackFileUnusable(f"{path}: it has no end as it should have")
    file.seek(size - _TAIL - length)
    text = file.read(length)
    if hashlib.sha256(text).digest() != tail[8:40]:
        raise PackFileUnusable(f"{path}: its index is damaged")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _remove_unfinished(folder: Path) -> None:
    """Removes files that no process is writing any more: their writers hold a lock on them."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
