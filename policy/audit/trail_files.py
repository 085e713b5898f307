"""The files that one audit trail lies in: `audit.jsonl`, then `audit.jsonl.2`, `audit.jsonl.3`, ...

Knows names and locks. Does not know lines. A part is never renamed and, once a later one exists, never written again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def part(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.name}.{number}")


def number_of(path: Path) -> int:
    """1 for the name of a whole trail or its first part, the number for a later part."""
    ending = path.suffix.removeprefix(".")
    return int(ending) if ending.isdecimal() and int(ending) > 1 else 1


def parts(path: Path) -> list[Path]:
    """The parts that there are, in order; a later part stands for itself alone."""
    if number_of(path) > 1:
        return [path]
    beside = (name for name in path.parent.glob(f"{path.name}.*") if part(path, number_of(name)) == name)
    later = sorted((name for name in beside if name != path), key=number_of)
    return [path, *later] if path.exists() or not later else later


@contextmanager
def open_locked(path: Path) -> Generator[IO[bytes], None, None]:
    """The file for appending, readable by its owner only, held against other processes until it is closed."""
    with open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
