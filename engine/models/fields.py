"""Checked values of a checkpoint's JSON files. Errors say what was expected and what was found.

Knows files and JSON. Does not know the meaning of a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in the file at `path`. Raises CheckpointError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def number(fields: Mapping[str, Any], key: str, origin: str, kind: type[int] | type[float] = int) -> Any:
    """Returns a non-negative number of `fields` as `kind`. Raises CheckpointError, in which `origin` names the file."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | kind) or value < 0:
        found = "nothing" if key not in fields else repr(value)
        raise CheckpointError(f"{origin}: expected {key} to be a non-negative {kind.__name__}, found {found}")
    return kind(value)
