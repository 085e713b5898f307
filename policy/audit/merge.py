"""Several trails as one: the calls of all replicas in the order in which they began.

Knows trails and records. Does not know replicas' processes. A call whose replica was lost may have been recorded there
before its answer was delivered, and again by the replica that decoded it anew: the last attempt's records are kept,
because they tell of what the caller got, and the others are named. The seals of the merged trail are new; heads of the
sources, kept elsewhere, still prove the sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import AuditFileRefused, TrailsNotMerged
from .record import CallRecord
from .trail import AuditFile, AuditLine, Head, read_audit, verify
from .trail_files import parts

_TORN: Final = "torn last line"


@dataclass(frozen=True, slots=True)
class Merged:
    """`records`: of all trails, ordered by their beginning. `replaced`: those of earlier attempts, which are left out.
    `doubled`: how many records stood in more than one trail. `torn`: lines that a killed process did not finish."""

    records: tuple[CallRecord, ...]
    replaced: tuple[CallRecord, ...]
    doubled: int
    torn: tuple[AuditLine, ...]


def merged(paths: Sequence[str | os.PathLike[str]]) -> Merged:
    """Reads, verifies and merges trails. Raises AuditFileRefused, and TrailsNotMerged for one with problems; a torn
    last line, which a killed process leaves, is none."""
    found: dict[str, CallRecord] = {}
    torn, doubled = list[AuditLine](), 0
    for path in map(Path, paths):
        lines = read_audit(path)
        torn += _torn(path, lines)
        for record in (line.record for line in lines):
            if record is None:
                continue
            if found.setdefault(record.call, record) != record:
                raise TrailsNotMerged(
                    path, f"cannot be merged: it says something else of call {record.call} than another of the trails"
                )
            doubled += found[record.call] is not record
    kept, replaced = _last_attempts(found.values())
    return Merged(_ordered(kept), _ordered(replaced), doubled, tuple(torn))


def write_merged(found: Merged, out: str | os.PathLike[str]) -> Head | None:
    """Writes the records as a new trail, with content where they have it. Returns its head; None without records.

    Raises AuditFileRefused where something is there already, and AuditWriteFailed.
    """
    if parts(Path(out))[0].exists():
        raise AuditFileRefused(Path(out), "it is there already; a merged trail is a new file")
    trail, head = AuditFile(out, content=True), None
    for record in found.records:
        head = trail.write(record)
    return head


def _torn(path: Path, lines: Sequence[AuditLine]) -> list[AuditLine]:
    """Returns the unfinished last line, if there is one. Raises TrailsNotMerged for any other problem."""
    last = [line for line in lines[-1:] if line.entry is None and line.problem.startswith(_TORN)]
    problems = [one for one in verify(path) if not last or (one.file, one.line) != (last[0].file, last[0].number)]
    if problems:
        first = problems[0]
        raise TrailsNotMerged(
            path, f"cannot be merged: line {first.line}: {first.message}; `trimode audit verify` says more"
        )
    return last


def _last_attempts(records: Iterable[CallRecord]) -> tuple[list[CallRecord], list[CallRecord]]:
    """Returns the records of each accepted call's last attempt, and those of earlier ones."""
    last: dict[tuple[str, int], int] = {}
    every = list(records)
    for served in (record.served for record in every):
        if served is not None:
            at = (served.request, served.choice)
            last[at] = max(last.get(at, 0), served.attempt)
    kept, replaced = list[CallRecord](), list[CallRecord]()
    for record in every:
        served = record.served
        current = served is None or served.attempt == last[served.request, served.choice]
        (kept if current else replaced).append(record)
    return kept, replaced


def _ordered(records: Iterable[CallRecord]) -> tuple[CallRecord, ...]:
    return tuple(sorted(records, key=lambda record: (record.start_ns, record.call)))
