"""The audit file: one JSON line a call, appended and never changed.

Knows lines and their chain, which goes on from part to part. Each line holds the sha256 of the bytes of the line before
it and of its own, so an edit, a deletion, an insertion or a swap shows. It is a seal, not a signature: cutting whole
lines off the end shows only against a `Head` kept elsewhere, and who rewrites all hashes leaves no trace here. Does not
know models or spans; never needs torch.
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
from .consistency import Problem, check_record
from .content import captures
from .record import CallRecord
from .trail_files import number_of, open_locked, part, parts

SCHEMA_VERSION: Final = "2"
_SEAL: Final = b',"sha256":"%s"}'
_SEAL_LENGTH: Final = len(_SEAL % (b"0" * 64))
_START: Final = re.compile(rb'\{"schema_version":"([^"]*)","sequence":(\d+),"previous":"([0-9a-f]*)"')


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
    """Where a trail stood: its last line's number and digest. Kept elsewhere, it shows lines cut off the end."""

    sequence: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The inverse of `str`. Raises PolicyError."""
        number, _, digest = text.partition(":")
        if not number.isdecimal() or not re.fullmatch("[0-9a-f]{64}", digest):
            raise PolicyError(f"head {text!r}: expected NUMBER:SHA256, as `trimode audit head FILE` prints it")
        return cls(int(number), digest)


class AuditFile:
    """Appends records; safe for threads, and for processes where the system has file locks.

    `content`: keep prompts, outputs and drafts; None asks `content.captures`. `fsync`: survive a loss of power.
    `rotate`: bytes from which on a new part is begun; every writer of a trail may have its own, or None.
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
        self.path = Path(path)
        if number_of(self.path) > 1:
            raise PolicyError(f"{self.path}: this is the name of a later part; pass {self.path.with_suffix('')}")
        self.content, self.fsync, self.rotate = captures("file", content), fsync, rotate
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = ForkSafeLock()
        self._part, self._end, self._sequence, self._previous = 1, 0, 0, ""
        self._forget()

    def write(self, record: CallRecord) -> Head:
        """Appends one line; returns where the trail stands now."""
        body = _RECORD.dump_json(record if self.content else record.redacted())
        with self._lock:
            while (head := self._append(body)) is None:
                pass
            return head

    def _append(self, body: bytes) -> Head | None:
        """None where the line belongs elsewhere, which is then the part to try."""
        with open_locked(part(self.path, self._part)) as file:
            if os.fstat(file.fileno()).st_size < self._end:
                self._forget()  # someone took lines away; the chain goes on from what is left
                return None
            gap, following = self._catch_up(file), part(self.path, self._part + 1)
            if self.rotate is not None and self._end >= self.rotate:
                following.touch(mode=0o600)
            if following.exists():
                self._part, self._end = self._part + 1, 0
                return None
            line, digest = _line(body, self._sequence + 1, self._previous)
            file.write(gap + line + b"\n")
            file.flush()
            if self.fsync:
                os.fsync(file.fileno())
            self._end, self._sequence, self._previous = file.tell(), self._sequence + 1, digest
            return Head(self._sequence, self._previous)

    def _forget(self) -> None:
        self._part = number_of(parts(self.path)[0])
        self._end, self._sequence, self._previous = 0, 0, ""

    def _catch_up(self, file: IO[bytes]) -> bytes:
        """Reads what others appended since. Returns the line end that a torn last line still needs."""
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
    """A line as found: its entry, or why it cannot be read (`torn`: the file ends inside it). `number`: in `file`."""

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
        """The call id, read loosely where the line is broken."""
        if self.entry:
            return self.entry.record.call
        try:
            return str(json.loads(self.raw)["record"]["call"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""


def read_audit(path: str | os.PathLike[str]) -> list[AuditLine]:
    """Every line of every part, readable or not. The name of a later part reads that part alone."""
    lines: list[AuditLine] = []
    for name in parts(Path(path)):
        with open(name, "rb") as file:
            lines += [_parse(number, line, name.name) for number, line in enumerate(file, start=1)]
    return lines


def records(lines: Sequence[AuditLine]) -> list[CallRecord]:
    return [line.entry.record for line in lines if line.entry]


def head(path: str | os.PathLike[str]) -> Head | None:
    """Where the trail stands; None for an empty one."""
    lines = read_audit(path)
    return Head(_first(Path(path), lines)[0] + len(lines) - 1, _digest(lines[-1].raw)) if lines else None


def verify(path: str | os.PathLike[str], kept: Head | None = None) -> list[Problem]:
    """Everything in the trail that does not add up; an empty list is the proof that it does.

    `kept`: where it stood at some time; shows whether lines up to there were cut off the end. A later part alone is
    verified from its first line, whose `previous` is taken as given.
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
    """Sequence and `previous` with which the trail has to begin."""
    return _base(lines[0].raw) if lines and number_of(path) > 1 else (1, "")


def _base(line: bytes) -> tuple[int, str]:
    """What a part's first line says about the parts before it."""
    found = _START.match(line)
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
    """A sealed line and its digest, both from one hash of what they share."""
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
    """Why a line cannot be read; for a record of another format its number alone, whatever else is unlike ours."""
    found = _START.match(raw)
    if found and (version := found[1].decode()) != SCHEMA_VERSION:
        return f"record format {version}: this version of trimode reads and writes format {SCHEMA_VERSION}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
