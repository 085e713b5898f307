"""Kill -9: whatever a writer leaves, every complete record is readable and verifiable, and the torn tail is named.

A process that is killed leaves a prefix of what it wrote: the file is cut at hundreds of random bytes, and real
processes are killed while they write. Each time another writer continues after the tear.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, read_audit, records, verify
from trimode.policy.audit.trail_files import parts

Recorded = Callable[..., CallRecord]
CUTS, TRAILS, KILLS = 240, 11, 20


@pytest.fixture(scope="module")
def record(recorded: Recorded) -> CallRecord:
    return recorded("linear_spec", schema=True)


def test_cut_at_random_bytes(record: CallRecord, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, content=True)
    heads = [file.write(replace(record, call=f"call {at}")) for at in range(4)]
    whole = path.read_bytes()
    ends = [at for at, sign in enumerate(whole) if sign == ord("\n")]
    chance = random.Random(7)
    for _ in range(CUTS):
        cut = chance.randrange(len(whole))
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        torn = cut not in {0, *ends, *(end + 1 for end in ends)}
        assert len(records(read_audit(path))) == complete
        assert [problem.found[:14] for problem in verify(path)] == ["torn last line"] * torn
        if complete:
            assert not [problem for problem in verify(path, heads[complete - 1]) if problem.field == "head"]
        AuditFile(path, content=True).write(record)
        assert [found.call for found in records(read_audit(path))] == [
            *(f"call {at}" for at in range(complete)),
            record.call,
        ]
        assert [(problem.line, problem.field) for problem in verify(path)] == [(complete + 1, "line")] * torn


def test_writers_killed_while_they_write(record: CallRecord, tmp_path: Path) -> None:
    """Each of them goes on where the one before was killed; a big record makes a write last."""
    source = AuditFile(tmp_path / "source.jsonl", content=True)
    source.write(replace(record, text="x" * 15_000))
    script = [sys.executable, str(Path(__file__).parents[1] / "forked_writers.py"), "kill"]
    subprocess.run([*script, str(tmp_path), str(source.path), str(TRAILS), str(KILLS)], check=True)
    for trail in range(TRAILS):
        path = tmp_path / f"{trail}.jsonl"
        lines = read_audit(path)
        torn = [(line.file, line.number, "line") for line in lines if line.entry is None]
        assert len(lines) - len(torn) >= KILLS >= len(torn)
        found = [(problem.file, problem.line, problem.field) for problem in verify(path)]
        assert found == torn, "nothing but the torn lines themselves"
        assert len(parts(path)) > 1
