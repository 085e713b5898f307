"""Values of parsed JSON under their expected types, with errors that name the key.

Knows JSON. Does not know what keys mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trimode.policy.errors import shown

from .refusals import Unreadable


def mapping(value: Any, key: str) -> Mapping[str, Any]:
    """Returns an object. Raises Unreadable for anything else."""
    if not isinstance(value, Mapping):
        raise Unreadable(f"{key}={shown(value)}: expected an object")
    return value


def array(value: Any, key: str) -> Sequence[Any]:
    """Returns a list; an empty one for None. Raises Unreadable for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise Unreadable(f"{key}={shown(value)}: expected a list")
    return value


def text(value: Any, key: str) -> str:
    """Returns a string; an empty one for None. Raises Unreadable for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable(f"{key}={shown(value)}: expected a string")
    return value


def whole(value: Any, key: str) -> int | None:
    """Returns a count, or None. Raises Unreadable for anything else, such as -1 and true."""
    if value is None:
        return None
    found = number(value, key)
    if found is None or found != int(found):
        raise Unreadable(f"{key}={shown(value)}: expected a whole number")
    return int(found)


def number(value: Any, key: str) -> float | None:
    """Returns a finite number that is not negative, or None. Raises Unreadable for anything else."""
    if value is None:
        return None
    try:
        held = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        held = -1.0
    if not 0 <= held < float("inf"):
        raise Unreadable(f"{key}={shown(value)}: expected a number, at least 0")
    return held


def unpacked(value: Any) -> Any:
    """Returns JSON that trace servers keep as text, and other values as they are."""
    while isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            break
    return value


def arguments(given: Any) -> Any:
    """Returns the arguments of a tool call as an object, or the text that is none."""
    held = unpacked(given) if isinstance(given, str) else given
    return held if isinstance(held, Mapping) else {} if given in (None, "") else given
