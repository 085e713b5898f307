"""The matrices of a checkpoint that stay in its files until kernels ask for them.

Knows names and files. Does not know kernels. A model with such matrices has norms and adapters in memory alone, so that
what kernels make of a matrix is its only copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trimode.kernels.ops import Blocks


@dataclass(frozen=True, slots=True)
class StoredMatrices:
    """Matrices by our names. `read` returns one as it is stored, whole or in blocks, and found finite; it raises
    CheckpointError. `fingerprint`: changes when a file does; `size`: bytes of all files."""

    origin: Path
    fingerprint: str
    size: int
    read: Callable[[str], Tensor | Blocks]


def stored_matrices(origin: Path, files: Sequence[Path], read: Callable[[str], Tensor | Blocks]) -> StoredMatrices:
    """The matrices of `files`. A file is taken for another one if its path, inode, size or time of change differ."""
    digest, size = hashlib.sha256(), 0
    for path in files:
        stat = path.stat()
        size += stat.st_size
        digest.update(f"{path.resolve()}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return StoredMatrices(origin, digest.hexdigest(), size, read)
