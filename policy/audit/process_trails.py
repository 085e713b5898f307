"""Audit files of the whole process, which `trimode.trace(to="file:PATH")` opens and every call is written to.

Knows files by their resolved path; there are none by default. Does not know calls or sessions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trimode.engine.locks import ForkSafeLock

from .trail import AuditFile

_files: Final[dict[Path, AuditFile]] = {}
_lock: Final = ForkSafeLock()


def add_audit_file(path: Path) -> None:
    """Records every later call of the process in that file too. Adding a file twice has no effect."""
    resolved = path.resolve()
    with _lock:
        if resolved not in _files:
            _files[resolved] = AuditFile(resolved)


def audit_files(own: AuditFile | None = None) -> tuple[AuditFile, ...]:
    """Returns the files that a call is written to: the session's `own` file and those of the process, each once."""
    session_files = () if own is None else (own,)
    if not _files:
        return session_files
    paths = {file.path.resolve() for file in session_files}
    return (*session_files, *(file for path, file in tuple(_files.items()) if path not in paths))
