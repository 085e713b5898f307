"""The files of one audit trail, called parts: `audit.jsonl`, then `audit.jsonl.2`, `audit.jsonl.3`, ...

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
    """Returns the path of a part, from 1."""
    return path if number == 1 else path.with_name(f"{path.name}.{number}")


def number_of(path: Path) -> int:
    """Returns the number of a later part, and 1 for the path of a whole trail, which is that of its first part."""
    suffix = path.suffix.removeprefix(".")
    return int(suffix) if suffix.isdecimal() and int(suffix) > 1 else 1


def parts(path: Path) -> list[Path]:
    """Returns the existing parts of a trail, in order; for the path of a later part, that part only."""
    if number_of(path) > 1:
        return [path]
    siblings = (name for name in path.parent.glob(f"{path.name}.*") if part(path, number_of(name)) == name)
    later = sorted((name for name in siblings if name != path), key=number_of)
    return [path, *later] if path.exists() or not later else later


@contextmanager
def open_locked(path: Path) -> Generator[IO[bytes], None, None]:
    """Opens the file for appending, readable by its owner only, and locks out other processes until it is closed."""
    with open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
