"""The audit files that the server may read: those named at its start, and those below the folders named there.

Knows paths. Does not know records. A file is asked for by its name in the list, so no other path can be read; links
that lead out of a folder are left out of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Final

from trimode.policy.errors import PolicyError, shown

FILES: Final = 1000
"""Files that are listed."""
SIZE: Final = 1 << 28
"""Bytes of the largest file that is read."""


@dataclass(frozen=True, slots=True)
class Trails:
    """Files, and folders in which all `*.jsonl` files are trails. Raises PolicyError for a path that is neither."""

    given: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Trails:
        """Raises PolicyError where there is no path, or one does not exist."""
        if not paths:
            raise PolicyError("expected audit files, or folders with audit files")
        for path in paths:
            if not path.exists():
                raise PolicyError(f"{path} does not exist; expected an audit file, or a folder with audit files")
        return cls(tuple(paths))

    def names(self) -> list[str]:
        """Returns the names of the files that exist now; at most FILES."""
        return [str(path) for path in islice(self._found(), FILES)]

    def path(self, name: str) -> Path:
        """Returns the path of a name in the list. Raises PolicyError for any other, and for a file beyond SIZE."""
        if name not in self.names():
            raise PolicyError(f"no audit file is named {shown(name)}; audit_files lists them")
        path = Path(name)
        if (size := path.stat().st_size) > SIZE:
            raise PolicyError(
                f"{path} has {size} bytes, and {SIZE} are read at most; AuditFile(rotate=...) makes parts"
            )
        return path

    def _found(self) -> Iterator[Path]:
        for given in self.given:
            files = sorted(given.rglob("*.jsonl")) if given.is_dir() else [given]
            yield from (file for file in files if file.is_file() and _stays(file, given))


def _stays(file: Path, given: Path) -> bool:
    """Returns whether a file and the later parts of its trail lie in the folder, links followed."""
    folder = given.resolve() if given.is_dir() else given.resolve().parent
    parts = [file, *file.parent.glob(f"{escape(file.name)}.*")] if given.is_dir() else [file]
    return all(part.resolve().is_relative_to(folder) for part in parts)
