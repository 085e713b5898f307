"""A trail in several files: the chain goes on from part to part, whoever writes and whatever is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, Head, head, read_audit, records, verify
from trimode.policy.audit.trail_files import number_of, part, parts
from trimode.policy.errors import PolicyError

Recorded = Callable[..., CallRecord]
LIMIT = 9000
"""Two or three of the records below."""


@pytest.fixture(scope="module")
def record(recorded: Recorded) -> CallRecord:
    return recorded("linear_spec", schema=True)


@pytest.fixture
def trail(tmp_path: Path, record: CallRecord) -> Path:
    """A good trail in several parts."""
    file = AuditFile(tmp_path / "runs" / "audit.jsonl", content=True, rotate=LIMIT)
    for _ in range(12):
        file.write(record)
    assert len(parts(file.path)) > 3
    return file.path


def first_line(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_bytes().splitlines()[0])
    return fields


def fields(path: Path) -> set[tuple[str, int, str]]:
    return {(problem.file, problem.line, problem.field) for problem in verify(path)}


def test_parts_follow_each_other(trail: Path) -> None:
    found = parts(trail)
    assert [number_of(path) for path in found] == list(range(1, len(found) + 1))
    assert verify(trail) == []
    lines = read_audit(trail)
    assert [line.entry.sequence for line in lines if line.entry] == list(range(1, 13))
    assert {line.file for line in lines} == {path.name for path in found}
    for before, after in pairwise(found):
        *_, last = before.read_bytes().splitlines()
        assert before.stat().st_size >= LIMIT > before.stat().st_size - len(last) - 1
        assert first_line(after)["previous"] == sha256(last).hexdigest()
        assert first_line(after)["sequence"] == json.loads(last)["sequence"] + 1
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)


def test_a_later_part_alone_verifies_from_its_first_line(trail: Path, tmp_path: Path) -> None:
    third = parts(trail)[2]
    assert verify(third) == []
    assert head(third) == Head(first_line(part(trail, 4))["sequence"] - 1, first_line(part(trail, 4))["previous"])
    lines = third.read_bytes().splitlines(keepends=True)
    third.write_bytes(b"".join(lines[1:]))
    assert verify(third) == [], "what stood before a part cannot be known from it"
    assert (third.name, 1, "previous") in fields(trail), "the whole trail knows"
    shutil.copy(part(trail, 2), tmp_path / "renamed.jsonl")
    assert fields(tmp_path / "renamed.jsonl") >= {("renamed.jsonl", 1, "sequence"), ("renamed.jsonl", 1, "previous")}


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_found(trail: Path, missing: int) -> None:
    part(trail, missing).unlink()
    after = part(trail, missing + 1).name
    assert fields(trail) == {(after, 1, "sequence"), (after, 1, "previous")} | {
        (line.file, line.number, "sequence") for line in read_audit(trail) if line.file >= after
    }


def test_parts_that_were_swapped_are_found(trail: Path) -> None:
    second, third = part(trail, 2), part(trail, 3)
    data = second.read_bytes(), third.read_bytes()
    second.write_bytes(data[1])
    third.write_bytes(data[0])
    assert {(second.name, 1, "previous"), (third.name, 1, "previous")} <= fields(trail)


def test_a_cut_at_the_end_of_a_middle_part_is_found(trail: Path) -> None:
    second = part(trail, 2)
    second.write_bytes(b"".join(second.read_bytes().splitlines(keepends=True)[:-1]))
    assert (part(trail, 3).name, 1, "previous") in fields(trail)


def test_a_new_writer_goes_on_where_the_last_part_ends(trail: Path, record: CallRecord) -> None:
    before = [path.read_bytes() for path in parts(trail)[:-1]]
    stood = AuditFile(trail, rotate=None).write(record)
    assert stood.sequence == 13
    assert verify(trail) == []
    assert [path.read_bytes() for path in parts(trail)[: len(before)]] == before, (
        "a part that has a later one is closed"
    )


def test_a_writer_goes_on_where_old_parts_were_moved_away(trail: Path, record: CallRecord) -> None:
    for old in parts(trail)[:2]:
        old.unlink()
    assert AuditFile(trail, rotate=LIMIT).write(record).sequence == 13
    assert not trail.exists(), "nothing is begun anew under the first name"
    assert verify(parts(trail)[-1]) == []


@pytest.mark.parametrize("begun", [b"", b'{"schema_version":"2","sequ'])
def test_a_writer_that_died_while_it_began_a_part_is_no_obstacle(trail: Path, record: CallRecord, begun: bytes) -> None:
    last = parts(trail)[-1]
    following = part(trail, number_of(last) + 1)
    following.write_bytes(begun)
    AuditFile(trail, content=True, rotate=LIMIT).write(record)
    assert fields(trail) == ({(following.name, 1, "line")} if begun else set())
    assert [line.file for line in read_audit(trail)][-1] == following.name


def test_a_torn_line_at_the_end_of_a_full_part_stays_there(trail: Path, record: CallRecord) -> None:
    last = parts(trail)[-1]
    last.write_bytes(last.read_bytes() + b'{"schema_version":"2","seq')
    torn = len(last.read_bytes().splitlines())
    AuditFile(trail, content=True, rotate=1).write(record)
    assert fields(trail) == {(last.name, torn, "line")}
    assert "torn last line" in verify(trail)[0].found
    assert parts(trail)[-1] != last


def test_processes_and_threads_write_one_chain(tmp_path: Path, record: CallRecord) -> None:
    path, source = tmp_path / "audit.jsonl", AuditFile(tmp_path / "source.jsonl", content=True)
    source.write(record)
    script = [sys.executable, str(Path(__file__).parents[1] / "forked_writers.py"), "share"]
    others = subprocess.Popen([*script, str(path), str(source.path), "3", "30"])

    def write(writer: AuditFile) -> None:
        for _ in range(10):
            writer.write(record)

    shared, own = (AuditFile(path, rotate=LIMIT) for _ in range(2))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (shared, shared, own)))
    assert others.wait() == 0
    assert verify(path) == []
    assert len(records(read_audit(path))) == 120
    assert len(parts(path)) > 5


def test_names_that_are_not_parts_are_left_alone(tmp_path: Path, record: CallRecord) -> None:
    for name in ("audit.jsonl.bak", "audit.jsonl.01", "audit.jsonl.x2", "other.jsonl.2", "audit.jsonl.1"):
        (tmp_path / name).write_text("not ours\n")
    AuditFile(tmp_path / "audit.jsonl").write(record)
    assert verify(tmp_path / "audit.jsonl") == []


@pytest.mark.parametrize(
    ("name", "rotate", "message"), [("a.jsonl.3", None, "a later part"), ("a.jsonl", 0, "rotate=0")]
)
def test_impossible_trails_are_refused(tmp_path: Path, name: str, rotate: int | None, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        AuditFile(tmp_path / name, rotate=rotate)
