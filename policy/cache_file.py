"""Small JSON files in the user's cache: measurements and evidence of this machine, which can be reproduced.

Knows files and one envelope, `{"format": 1, "kind": ..., "content": ...}`. Does not know the content. A file that
cannot be used is renamed with a warning and never fails a call. Writes are atomic; the last writer wins.
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
"""Version of the envelope."""
T = TypeVar("T")


class CacheWarning(UserWarning):
    """A cache file was renamed because it cannot be used, or could not be written; the call continues without it."""


def read(path: Path, kind: str, parse: Callable[[Any], T]) -> T | None:
    """Returns the file's content as parsed by `parse`; None if there is no file or it cannot be used.

    `parse` raises LookupError, TypeError, ValueError or AttributeError for content that it cannot use.
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
    """Replaces the file atomically. Issues a CacheWarning if that fails."""
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
    """Renames the file to `*.broken` and issues a CacheWarning with the reason."""
    aside = path.with_name(f"{path.name}.broken")
    try:
        path.replace(aside)
        where = f"it lies at {aside} now"
    except OSError as error:
        where = f"and it cannot be moved away ({error.strerror})"
    warnings.warn(f"{path} cannot be used ({reason}); {where}; starting anew", CacheWarning, stacklevel=3)
