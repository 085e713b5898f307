"""Small JSON files in the user's cache: what was measured or learned on this machine, and can be again.

Knows files and one envelope, `{"format": 1, "kind": ..., "content": ...}`. A file that cannot be used is set aside with
a warning and never ends a call; whoever writes last wins, and nobody reads half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

FORMAT: Final = 1
T = TypeVar("T")


class CacheWarning(UserWarning):
    """A cache file was set aside, or could not be written; the work goes on without it."""


def read(path: Path, kind: str, parse: Callable[[Any], T]) -> T | None:
    """What `parse` makes of the file's content; None where there is no file, or none that can be used.

    `parse` raises LookupError, TypeError, ValueError or AttributeError for what it cannot use.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["format"], found["kind"]) != (FORMAT, kind):
            raise ValueError(f"format {found['format']!r} of {found['kind']!r}, expected {FORMAT} of {kind!r}")
        return parse(found["content"])
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        _set_aside(path, f"{type(error).__name__}: {error}")
        return None


def write(path: Path, kind: str, content: Any) -> None:
    """Replaces the file in one step; a CacheWarning where that cannot be done."""
    text = json.dumps({"format": FORMAT, "kind": kind, "content": content})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        warnings.warn(f"cannot write {path}: {error.strerror}; it will be made again", CacheWarning, stacklevel=2)


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_name(f"{path.name}.broken")
    try:
        path.replace(aside)
        where = f"it lies at {aside} now"
    except OSError as error:
        where = f"and it cannot be moved away ({error.strerror})"
    warnings.warn(f"{path} cannot be used ({reason}); {where}; starting anew", CacheWarning, stacklevel=3)
