"""Audit files of the whole process: what `trimode.trace(to="file:PATH")` opens and every call is written to.

Knows files by their place. Does not know calls or sessions; empty unless somebody asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trimode.engine.locks import ForkSafeLock

from .trail import AuditFile

_files: Final[dict[Path, AuditFile]] = {}
_lock: Final = ForkSafeLock()


def add_audit_file(path: Path) -> None:
    """From now on every call of the process is recorded there too. A second time does nothing."""
    place = path.resolve()
    with _lock:
        if place not in _files:
            _files[place] = AuditFile(place)


def audit_files(own: AuditFile | None = None) -> tuple[AuditFile, ...]:
    """Where a call is written: the session's `own` file and those of the process, each once."""
    mine = () if own is None else (own,)
    if not _files:
        return mine
    places = {file.path.resolve() for file in mine}
    return (*mine, *(file for place, file in tuple(_files.items()) if place not in places))
