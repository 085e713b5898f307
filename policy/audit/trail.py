"""The audit file: one JSON line for each call, appended and never changed.

Knows lines and their hash chain, which continues from part to part. Does not know models or spans, and never needs
torch. Each line contains the sha256 of the previous line and of itself, so that an edit, a deletion, an insertion or a
swap is detected. It is a seal, not a signature: lines cut off the end are detected only with a `Head` kept elsewhere,
and somebody who rewrites all hashes is not detected.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from trimode.engine.locks import ForkSafeLock

from ..errors import PolicyError
from . import trail_files as files
from .consistency import Problem, check_record
from .content import captures
from .record import CallRecord
from .trail_files import LINE_START, number_of, part, parts

SCHEMA_VERSION: Final = "2"
_SEAL: Final = b',"sha256":"%s"}'
_SEAL_LENGTH: Final = len(_SEAL % (b"0" * 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the trail. `sequence` counts from 1 through all parts; `previous` is empty on the first line."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal["2"]
    sequence: int
    previous: str
    record: CallRecord
    sha256: str


_ENTRY: Final = TypeAdapter(Entry)
_RECORD: Final = TypeAdapter(CallRecord)


@dataclass(frozen=True, slots=True)
class Head:
    """The number and digest of a trail's last line. Kept elsewhere, it reveals lines cut off the end later."""

    sequence: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Parses what `str` returns. Raises PolicyError."""
        number, _, digest = text.partition(":")
        if not number.isdecimal() or not re.fullmatch("[0-9a-f]{64}", digest):
            raise PolicyError(f"head {text!r}: expected NUMBER:SHA256, as `trimode audit head FILE` prints it")
        return cls(int(number), digest)


class AuditFile:
    """Appends records; safe for threads, and for processes where the system has file locks.

    `content`: keep prompts, outputs and drafts; None follows `content.captures`. `fsync`: survive a loss of power.
    `rotate`: size of a part, in bytes, from which the next part is started; each writer of a trail may use its own.
    Raises AuditFileRefused where the path is another kind of file or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        content: bool | None = None,
        fsync: bool = False,
        rotate: int | None = None,
    ) -> None:
        if rotate is not None and rotate < 1:
            raise PolicyError(f"rotate={rotate}: expected a number of bytes from 1, or None for one file")
        self.path: Path = Path(path)
        if number_of(self.path) > 1:
            raise PolicyError(f"{self.path}: this is the name of a later part; pass {self.path.with_suffix('')}")
        self.content: bool = captures("file", content)
        self.fsync: bool = fsync
        self.rotate: int | None = rotate
        files.check_writable(self.path)
        self._lock = ForkSafeLock()
        self._part, self._end, self._sequence, self._previous = number_of(parts(self.path)[0]), 0, 0, ""

    def write(self, record: CallRecord) -> Head:
        """Appends one line, or nothing where it raises AuditWriteFailed. Returns the trail's new head."""
        body = _RECORD.dump_json(record if self.content else record.redacted())
        with self._lock, files.writing(self.path, record.call):
            while (head := self._append(body)) is None:
                pass
            return head

    def _append(self, body: bytes) -> Head | None:
        """Appends the line to the current part; None where it belongs to another, which is then the current one."""
        with files.open_locked(part(self.path, self._part)) as file:
            if os.fstat(file.fileno()).st_size < self._end:
                self._forget()  # lines were removed by somebody else; the chain continues from the remaining ones
                return None
            gap, following = self._catch_up(file), part(self.path, self._part + 1)
            if self.rotate is not None and self._end >= self.rotate:
                following.touch(mode=0o600)
            if following.exists():
                self._part, self._end = self._part + 1, 0
                return None
            line, digest = _line(body, self._sequence + 1, self._previous)
            files.append(file, gap + line + b"\n", self.fsync)
            self._end, self._sequence, self._previous = self._end + len(line) + 1, self._sequence + 1, digest
            return Head(self._sequence, self._previous)

    def _forget(self) -> None:
        self._part = number_of(parts(self.path)[0])
        self._end, self._sequence, self._previous = 0, 0, ""

    def _catch_up(self, file: IO[bytes]) -> bytes:
        """Reads the lines that other writers appended. Returns the line end that an unfinished last line still
        needs."""
        if not self._end:
            files.check_open(file)
        file.seek(self._end)
        line = b""
        for line in file:
            if not self._sequence and self._part > 1:
                self._sequence = _base(line)[0] - 1
            self._sequence += 1
            self._end += len(line)
        if line:
            self._previous = _digest(line.removesuffix(b"\n"))
        if line and not line.endswith(b"\n"):
            self._end += 1
            return b"\n"
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """A line as read: its entry, or the problem with reading it. `number`: from 1, in `file`."""

    number: int
    raw: bytes
    entry: Entry | None
    problem: str = ""
    file: str = ""

    @property
    def record(self) -> CallRecord | None:
        return self.entry.record if self.entry else None

    @property
    def call(self) -> str:
        """The call id, also of an invalid line if it can be found there."""
        if self.entry:
            return self.entry.record.call
        try:
            return str(json.loads(self.raw)["record"]["call"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""


def read_audit(path: str | os.PathLike[str]) -> list[AuditLine]:
    """Reads every line of every part, valid or not. The path of a later part reads that part only. Raises
    AuditFileRefused where a part cannot be read or no line of it is one of an audit file."""
    lines: list[AuditLine] = []
    for name in files.readable(Path(path)):
        with open(name, "rb") as file:
            lines += [_parse(number, line, name.name) for number, line in enumerate(file, start=1)]
    return lines


def records(lines: Sequence[AuditLine]) -> list[CallRecord]:
    """Returns the records of the valid lines."""
    return [line.entry.record for line in lines if line.entry]


def head(path: str | os.PathLike[str]) -> Head | None:
    """Returns the trail's head; None for an empty trail."""
    lines = read_audit(path)
    return Head(_first(Path(path), lines)[0] + len(lines) - 1, _digest(lines[-1].raw)) if lines else None


def verify(path: str | os.PathLike[str], kept: Head | None = None) -> list[Problem]:
    """Returns the failed checks of a trail; an empty list means that it is intact.

    `kept`: an earlier head of the trail, by which lines cut off the end are detected. A later part alone is verified
    from its first line, whose `previous` is trusted.
    """
    problems: list[Problem] = []
    lines = read_audit(path)
    sequence, previous = _first(Path(path), lines)
    for position, line in enumerate(lines, start=sequence):
        if line.entry is not None:
            problems += check_record(line.entry.record, line.number, line.file)
        problems += _chain(line, position, previous)
        previous = _digest(line.raw)
        if kept is not None and position == kept.sequence:
            problems += _compare(line, kept, previous)
    last = sequence + len(lines) - 1
    if kept is not None and not sequence <= kept.sequence <= last:
        problems.append(_missing(kept, sequence, last))
    return problems


def _first(path: Path, lines: Sequence[AuditLine]) -> tuple[int, str]:
    """Returns the sequence and `previous` that the first line must have."""
    return _base(lines[0].raw) if lines and number_of(path) > 1 else (1, "")


def _base(line: bytes) -> tuple[int, str]:
    """Returns sequence and `previous` from a part's first line."""
    found = LINE_START.match(line)
    return (int(found[2]), found[3].decode()) if found else (1, "")


def _chain(line: AuditLine, position: int, previous: str) -> Iterator[Problem]:
    entry = line.entry
    if entry is None:
        yield _problem(line, "line", "a complete record", line.problem, "the line cannot be read")
        return
    seal = _digest(line.raw[:-_SEAL_LENGTH] + b"}")
    if entry.sha256 != seal or not line.raw.endswith(_SEAL % seal.encode()):
        message = "chain broken: this line was changed after it was written"
        yield _problem(line, "sha256", seal, entry.sha256, message)
    if entry.previous != previous:
        message = "chain broken: the line before this one was changed, removed or put in"
        yield _problem(line, "previous", previous, entry.previous, message)
    if entry.sequence != position:
        message = "lines are missing, doubled or out of order"
        yield _problem(line, "sequence", position, entry.sequence, message)


def _compare(line: AuditLine, kept: Head, found: str) -> Iterator[Problem]:
    if kept.sha256 != found:
        yield _problem(line, "head", kept.sha256, found, "another line stands where the kept head stood")


def _missing(kept: Head, first: int, last: int) -> Problem:
    message = "lines up to the kept head are not there: they were cut off the end, or this is another part"
    found = f"lines {first} to {last}" if last >= first else "no lines"
    return Problem(line=last, call="", field="head", expected=str(kept), found=found, message=message)


def _problem(line: AuditLine, field: str, expected: object, found: object, message: str) -> Problem:
    return Problem(
        line=line.number,
        call=line.call,
        field=field,
        expected=str(expected),
        found=str(found),
        message=message,
        file=line.file,
    )


def _line(record: bytes, sequence: int, previous: str) -> tuple[bytes, str]:
    """Returns a sealed line and its digest, both from one hash of their common prefix."""
    head = b'{"schema_version":"%s","sequence":%d,"previous":"%s","record":%s'
    body = head % (SCHEMA_VERSION.encode(), sequence, previous.encode(), record)
    whole = sha256(body)
    sealed = whole.copy()
    sealed.update(b"}")
    seal = _SEAL % sealed.hexdigest().encode()
    whole.update(seal)
    return body + seal, whole.hexdigest()


def _parse(number: int, line: bytes, file: str) -> AuditLine:
    raw = line.removesuffix(b"\n")
    try:
        return AuditLine(number=number, raw=raw, entry=_ENTRY.validate_json(raw), file=file)
    except ValidationError as error:
        torn = "" if line.endswith(b"\n") else "torn last line, the write did not finish: "
        return AuditLine(number=number, raw=raw, entry=None, problem=torn + _why(raw, error), file=file)


def _why(raw: bytes, error: ValidationError) -> str:
    """Returns why a line cannot be read; for a record of another format the format's number only."""
    found = LINE_START.match(raw)
    if found and (version := found[1].decode()) != SCHEMA_VERSION:
        return f"record format {version}: this version of trimode reads and writes format {SCHEMA_VERSION}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
