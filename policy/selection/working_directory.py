"""The policy of the working directory: `trimode.toml`, or `[tool.trimode]` of a pyproject.toml.

Knows files and when they changed. Does not know sessions. Every call outside a session asks, so a file is parsed again
only where it changed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

from ..errors import PolicyError
from .policies import Policy
from .toml_text import shown_path, tool_table


def working_policy() -> Policy | None:
    """Returns the policy that is in force where the process runs; None also where its directory was removed."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return None
    return configured(here)


def configured(folder: Path) -> Policy | None:
    """Returns the policy of `trimode.toml` in `folder`, else of `[tool.trimode]` in its pyproject.toml, else None.

    Raises PolicyError for a file that cannot be read.
    """
    for name in ("trimode.toml", "pyproject.toml"):
        path = folder / name
        if (version := _version(path)) is not None and (policy := _read(path, shown_path(path), version)) is not None:
            return policy
    return None


def _version(path: Path) -> tuple[int, ...] | None:
    """Returns numbers that change when the file does; None where there is no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PolicyError(f"cannot read policy {path}: {error.strerror}") from None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino) if S_ISREG(found.st_mode) else None


@lru_cache(maxsize=16)
def _read(path: Path, name: str, version: tuple[int, ...]) -> Policy | None:  # noqa: ARG001
    """Reads one `version` of a file; `name`: the path as reasons show it, which depends on the working directory."""
    if path.name == "pyproject.toml" and tool_table(path) is None:
        return None
    return Policy.from_toml(path)
