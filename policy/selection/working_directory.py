"""The policy of the working directory: `trimode.toml`, or `[tool.trimode]` of a pyproject.toml.

Knows files and when they changed. Does not know sessions. Every call outside a session asks, so a file is parsed again
only where it changed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .policies import Policy
from .toml_text import tool_table


def configured(folder: Path) -> Policy | None:
    """Returns the policy of `trimode.toml` in `folder`, else of `[tool.trimode]` in its pyproject.toml, else None.

    Raises PolicyError for a file that cannot be read.
    """
    for name in ("trimode.toml", "pyproject.toml"):
        path = folder / name
        if path.is_file():
            found = path.stat()
            policy = _read(path, Path.cwd(), (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino))
            if policy is not None:
                return policy
    return None


@lru_cache(maxsize=16)
def _read(path: Path, here: Path, version: tuple[int, ...]) -> Policy | None:  # noqa: ARG001
    """Reads one `version` of a file; `here`: the working directory, which the policy's name depends on."""
    if path.name == "pyproject.toml" and tool_table(path) is None:
        return None
    return Policy.from_toml(path)
