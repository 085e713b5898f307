"""The files of one audit trail, called parts: `audit.jsonl`, then `audit.jsonl.2`, `audit.jsonl.3`, ...

Knows names, locks, whole appends and how a line begins. Does not know records. A part is never renamed and, once a
later one exists, never written again.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Final

from ..errors import AuditFileRefused, AuditWriteFailed

LINE_START: Final = re.compile(rb'\{"schema_version":"([^"]*)","sequence":(\d+),"previous":"([0-9a-f]*)"')
SAMPLE: Final = 1 << 20
"""Bytes from the start of a file in which a line of a trail must begin."""
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_START: Final = (b'{"schema_version":"', b'","sequence":', b',"previous":"')
_FREE: Final = b"0123456789abcdef"
"""What stands between the texts of `_START` and behind them."""


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
    siblings = (name for name in path.parent.glob(f"{escape(path.name)}.*") if part(path, number_of(name)) == name)
    later = sorted((name for name in siblings if name != path), key=number_of)
    return [path, *later] if path.exists() or not later else later


def readable(path: Path) -> list[Path]:
    """Returns the parts of a trail. Raises AuditFileRefused where one cannot be read or is no part of a trail."""
    with _refusing(path):
        found = parts(path)
        for name in found:
            _check(name)
        return found


def check_writable(path: Path) -> None:
    """Makes the folder of a trail. Raises AuditFileRefused where the trail cannot be continued or begun."""
    with _refusing(path):
        with suppress(FileNotFoundError):
            os.stat(path)  # raises what `exists` hides: a path that can be none
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [name for name in parts(path) if name.exists()]
        for name in found:
            _check(name)
        if found:
            os.close(os.open(found[-1], os.O_RDWR | os.O_APPEND))
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            raise AuditFileRefused(path, f"nothing can be written in {path.parent}")


def is_trail(sample: bytes) -> bool:
    """Returns whether a file that starts with `sample` is a trail, whatever was damaged in it: whether any line begins
    as all do, or the last one would, had its writer not been killed."""
    lines = [line for line in sample.split(b"\n") if line]
    if not lines or any(LINE_START.match(line) for line in lines):
        return True
    return len(sample) < SAMPLE and _torn(lines[-1])


@contextmanager
def open_locked(path: Path) -> Generator[IO[bytes], None, None]:
    """Opens the file for appending, readable by its owner only, and locks out other processes until it is closed.

    Raises AuditFileRefused where it is no regular file: a device could be read for ever.
    """
    with open(path, "ab+", opener=_opened) as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _opened(path: str, flags: int) -> int:
    number = os.open(path, flags, 0o600)
    try:
        _check_kind(Path(path), os.fstat(number))
    except AuditFileRefused:
        os.close(number)
        raise
    return number


def append(file: IO[bytes], data: bytes, fsync: bool) -> None:
    """Appends all of `data` to a locked file, or nothing where that raises OSError.

    Past the file object's buffer, which would try to write the rest again when it is closed.
    """
    number, size = file.fileno(), os.fstat(file.fileno()).st_size
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(number, remaining) :]
        if fsync:
            os.fsync(number)
    except BaseException:
        if sys.platform != "win32":  # there, without a lock, the end may be another writer's
            with suppress(OSError):
                os.ftruncate(number, size)
        raise


@contextmanager
def writing(path: Path, call: str) -> Generator[None, None, None]:
    """Turns what goes wrong while a record is written into AuditWriteFailed."""
    try:
        yield
    except AuditFileRefused as error:  # another file came to stand there
        raise AuditWriteFailed([path], error.why, call) from error
    except OSError as error:
        raise AuditWriteFailed([path], _said(error), call) from error


@contextmanager
def _refusing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AuditFileRefused(path, _said(error)) from error


def _said(error: OSError | ValueError) -> str:
    """Returns what the system said, without the path."""
    return getattr(error, "strerror", None) or str(error)


def check_open(file: IO[bytes]) -> None:
    """Raises AuditFileRefused where an open file is no part of a trail."""
    file.seek(0)
    if not is_trail(file.read(SAMPLE)):
        raise AuditFileRefused(Path(file.name), "no line in it is one of an audit file")


def _check(path: Path) -> None:
    _check_kind(path, os.stat(path))
    with open(path, "rb") as file:
        check_open(file)


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise AuditFileRefused(path, f"this is {kind}, which cannot hold an audit trail")


def _torn(line: bytes) -> bool:
    """Returns whether `line` ends before its start is complete, without a difference up to there."""
    for text in _START:
        if len(line) < len(text):
            return text.startswith(line)
        if not line.startswith(text):
            return False
        line = line[len(text) :].lstrip(_FREE)
    return not line
