"""The audit file: one JSON line a call, appended and never changed.

Knows lines and their chain. Each line holds the sha256 of the bytes of the line before it and of its own, so an edit, a
deletion, an insertion or a swap shows. It is a seal, not a signature: cutting whole lines off the end leaves a valid
file, and who rewrites all hashes leaves no trace here. Does not know models or spans; never needs torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import IO, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .check import Problem, check_record
from .content import captures
from .record import CallRecord

SCHEMA_VERSION: Final = "1"
_SEAL: Final = b',"sha256":"%s"}'
_SEAL_LENGTH: Final = len(_SEAL % (b"0" * 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the file. `sequence` counts from 1; `previous` is empty on the first line."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal["1"]
    sequence: int
    previous: str
    record: CallRecord
    sha256: str


_ENTRY: Final = TypeAdapter(Entry)
_RECORD: Final = TypeAdapter(CallRecord)


class AuditFile:
    """Appends records; safe for threads, and for processes where the system has file locks.

    `content`: keep prompts, outputs and drafts; None asks `content.captures`. `fsync`: survive a loss of power.
    """

    def __init__(self, path: str | os.PathLike[str], *, content: bool | None = None, fsync: bool = False) -> None:
        self.path = Path(path)
        self.content = captures("file", content)
        self.fsync = fsync
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        self._forget()

    def write(self, record: CallRecord) -> int:
        """Appends one line and returns its sequence number."""
        body = _RECORD.dump_json(record if self.content else record.redacted())
        with self._lock, _open_locked(self.path) as file:
            gap = self._catch_up(file)
            sequence = self._lines + 1
            file.write(gap + _line(body, sequence, self._previous) + b"\n")
            file.flush()
            if self.fsync:
                os.fsync(file.fileno())
            return sequence

    def _forget(self) -> None:
        self._end, self._lines, self._previous = 0, 0, ""

    def _catch_up(self, file: IO[bytes]) -> bytes:
        """Reads what was appended since, by anyone. Returns the line end that a torn last line still needs."""
        if os.fstat(file.fileno()).st_size < self._end:
            self._forget()
        file.seek(self._end)
        for line in file:
            self._lines += 1
            self._previous = _digest(line.removesuffix(b"\n"))
            self._end += len(line)
            if not line.endswith(b"\n"):
                self._end += 1
                return b"\n"
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """A line as found: its entry, or why it cannot be read (`torn`: the file ends inside it)."""

    number: int
    raw: bytes
    entry: Entry | None
    problem: str = ""

    @property
    def record(self) -> CallRecord | None:
        return self.entry.record if self.entry else None

    @property
    def call(self) -> str:
        """The call id, read loosely where the line is broken."""
        if self.entry:
            return self.entry.record.call
        try:
            return str(json.loads(self.raw)["record"]["call"])
        except (ValueError, KeyError, TypeError):
            return ""


def read_audit(path: str | os.PathLike[str]) -> list[AuditLine]:
    """Every line of the file, readable or not."""
    with open(path, "rb") as file:
        return [_parse(number, line) for number, line in enumerate(file, start=1)]


def records(lines: list[AuditLine]) -> list[CallRecord]:
    return [line.entry.record for line in lines if line.entry]


def verify(path: str | os.PathLike[str]) -> list[Problem]:
    """Everything in the file that does not add up; an empty list is the proof that it does."""
    problems: list[Problem] = []
    previous = ""
    for line in read_audit(path):
        if line.entry is not None:
            problems += check_record(line.entry.record, line.number)
        problems += _chain(line, previous)
        previous = _digest(line.raw)
    return problems


def _chain(line: AuditLine, previous: str) -> Iterator[Problem]:
    def problem(field: str, expected: object, found: object, message: str) -> Problem:
        return Problem(
            line=line.number, call=line.call, field=field, expected=str(expected), found=str(found), message=message
        )

    entry = line.entry
    if entry is None:
        yield problem("line", "a complete record", line.problem, "the line cannot be read")
        return
    seal = _digest(line.raw[:-_SEAL_LENGTH] + b"}")
    if entry.sha256 != seal or not line.raw.endswith(_SEAL % seal.encode()):
        yield problem("sha256", seal, entry.sha256, "the line was changed after it was written")
    if entry.previous != previous:
        message = "chain broken: the line before this one was changed, removed or put in"
        yield problem("previous", previous, entry.previous, message)
    if entry.sequence != line.number:
        yield problem("sequence", line.number, entry.sequence, "lines are missing, doubled or out of order")


def _line(record: bytes, sequence: int, previous: str) -> bytes:
    head = b'{"schema_version":"%s","sequence":%d,"previous":"%s","record":%s'
    body = head % (SCHEMA_VERSION.encode(), sequence, previous.encode(), record)
    return body + _SEAL % _digest(body + b"}").encode()


def _parse(number: int, line: bytes) -> AuditLine:
    raw = line.removesuffix(b"\n")
    try:
        return AuditLine(number=number, raw=raw, entry=_ENTRY.validate_json(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        torn = "" if line.endswith(b"\n") else "torn last line, the write did not finish: "
        return AuditLine(number=number, raw=raw, entry=None, problem=torn + problem)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


@contextmanager
def _open_locked(path: Path) -> Iterator[IO[bytes]]:
    """The file for appending, readable by its owner only, held against other processes until it is closed."""
    with open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
