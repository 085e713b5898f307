"""Paths that are no audit file are refused before anything is written, and by all who read. An append is whole or
nothing."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import trimode as tm
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, head, read_audit, records, verify
from trimode.policy.audit.trail_files import SAMPLE, is_trail, parts

Recorded = Callable[..., CallRecord]
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
FOREIGN = {
    "text.txt": b"Dear all,\n\nnothing to see here.\n",
    "line.txt": b"not ours\n",
    "blank-end.txt": b"not ours\n\n",
    "picture.png": PNG,
    "zeros": bytes(100_000),
    "other.jsonl": b'{"level": "info", "message": "started"}\n{"level": "info"}\n',
    "near.jsonl": b'{"schema_version":"1.0","payload":{}}\n',
    "near-torn.jsonl": b'{"schema_version":"1.0","payload"',
    "page.html": b"<!doctype html><title>x</title>",
}


@pytest.fixture(scope="module")
def record(recorded: Recorded) -> CallRecord:
    return recorded("linear_spec", schema=True)


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_refused_and_left_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    for use in (AuditFile, verify, head, read_audit):
        with pytest.raises(tm.AuditFileRefused, match="no line in it is one of an audit file") as caught:
            use(path)
        assert caught.value.path == path
    assert path.read_bytes() == FOREIGN[name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/full")
    (tmp_path / "folder").mkdir()
    kinds = {"/dev/full": "a character device", "pipe": "a pipe", "link": "a character device", "folder": "a directory"}
    for name, kind in kinds.items():
        for use in (AuditFile, verify, head, read_audit):
            with pytest.raises(tm.AuditFileRefused, match=f"this is {kind}"):
                use(tmp_path / name)


@pytest.mark.parametrize("path", ["taken/audit.jsonl", "a\0b", "x" * 300])
def test_paths_that_can_be_none_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(tm.AuditFileRefused):
        AuditFile(tmp_path / path)
    with pytest.raises(tm.AuditFileRefused):
        read_audit(tmp_path / path)


def test_a_missing_file_is_refused_by_readers_and_begun_by_writers(tmp_path: Path, record: CallRecord) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    with pytest.raises(tm.AuditFileRefused, match="No such file"):
        verify(path)
    AuditFile(path).write(record)
    assert verify(path) == []


def test_a_file_without_permission_is_refused(
    tmp_path: Path, record: CallRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may open anything, so the system's answer is put in its mouth."""
    file = AuditFile(tmp_path / "audit.jsonl")
    file.write(record)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(tm.AuditFileRefused, match=r"audit.jsonl: Permission denied"):
            AuditFile(file.path)
        with pytest.raises(tm.AuditWriteFailed, match="Permission denied"):
            file.write(record)
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(tm.AuditFileRefused, match="nothing can be written in"):
            AuditFile(tmp_path / "new.jsonl")
    assert file.write(record).sequence == 2


@pytest.mark.parametrize("rest", [0, 1, 7, 18, 19, 25, 37, 40, 55, 60])
def test_a_torn_first_line_is_still_a_trail(tmp_path: Path, record: CallRecord, rest: int) -> None:
    path = tmp_path / "audit.jsonl"
    AuditFile(path).write(record)
    path.write_bytes(path.read_bytes()[:rest])
    assert AuditFile(path).write(record).sequence == (2 if rest else 1)
    assert len(records(read_audit(path))) == 1


def test_a_damaged_trail_is_still_one() -> None:
    line = b'{"schema_version":"2","sequence":7,"previous":"ab","record":{}}\n'
    assert is_trail(b"damaged\n" + line)
    assert is_trail(line * 2 + b"\x00\x01")
    assert not is_trail(b"x" * (SAMPLE - 1) + b"{"), "the sample's end is not the file's"
    assert not is_trail(b"x\n" * (SAMPLE // 2 - 1) + b"\n{")


def test_a_part_of_others_is_refused(tmp_path: Path, record: CallRecord) -> None:
    path = tmp_path / "audit.jsonl"
    AuditFile(path).write(record)
    (tmp_path / "audit.jsonl.2").write_bytes(PNG)
    for use in (AuditFile, read_audit, verify):
        with pytest.raises(tm.AuditFileRefused, match=r"audit\.jsonl\.2"):
            use(path)


def test_names_with_brackets_have_later_parts(tmp_path: Path, record: CallRecord) -> None:
    path = tmp_path / "audit[1].jsonl"
    for _ in range(3):
        AuditFile(path, rotate=1).write(record)
    assert len(parts(path)) == 3
    assert verify(path) == []


def test_another_file_that_comes_to_stand_there_is_not_written_to(tmp_path: Path, record: CallRecord) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    path.write_bytes(PNG)
    with pytest.raises(tm.AuditWriteFailed, match="no line in it") as caught:
        file.write(record)
    assert isinstance(caught.value.__cause__, tm.AuditFileRefused)
    assert path.read_bytes() == PNG
    path.unlink()
    path.mkdir()
    with pytest.raises(tm.AuditWriteFailed, match="directory"):
        file.write(record)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(tm.AuditWriteFailed, match="a pipe"):
        file.write(record)


@pytest.mark.parametrize("room", [0, 1, 100, 2000])
@pytest.mark.parametrize("torn", [b"", b'{"schema_version":"2","seq'])
def test_an_append_is_whole_or_nothing(
    tmp_path: Path, record: CallRecord, monkeypatch: pytest.MonkeyPatch, room: int, torn: bytes
) -> None:
    """A disk with `room` bytes left takes them, as disks do, and then no more."""
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, content=True)
    file.write(record)
    path.write_bytes(path.read_bytes() + torn)
    before, write, left = path.read_bytes(), os.write, [room]

    def full(number: int, data: bytes) -> int:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return write(number, data)
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(number, data[: left[0]])
        left[0] -= done
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(2):
            with pytest.raises(tm.AuditWriteFailed):
                file.write(record)
        with pytest.raises(tm.AuditWriteFailed, match=f"{record.call} was not written: No space left") as caught:
            file.write(record)
    error = caught.value
    assert (error.path, error.paths, error.audit_id, error.result) == (path, (path,), record.call, None)
    assert isinstance(error.__cause__, OSError)
    assert path.read_bytes() == before
    assert file.write(record).sequence == (3 if torn else 2)
    assert len(verify(path)) == bool(torn)
    assert len(records(read_audit(path))) == 2


def test_an_append_that_does_not_reach_the_disk_is_taken_back(
    tmp_path: Path, record: CallRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = AuditFile(tmp_path / "audit.jsonl", fsync=True)
    file.write(record)
    before = file.path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(tm.AuditWriteFailed, match="Input/output error"):
            file.write(record)
    assert file.path.read_bytes() == before
    assert json.loads(before.splitlines()[-1])["sequence"] == 1
    assert file.write(record).sequence == 2
