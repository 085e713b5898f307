"""Checks of single option values, which raise RequestError with what was given and what is allowed.

Knows ranges. Does not know which mode an option belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import RequestError


def check(ok: bool, name: str, given: object, allowed: str) -> None:
    if not ok:
        raise RequestError(f"{name}={given!r}: expected {allowed}")


def check_one_of(allowed: Sequence[str], name: str, given: str | None) -> None:
    """Raises RequestError unless `given` is None or one of the `allowed` values."""
    check(given is None or given in allowed, name, given, " or ".join(map(repr, allowed)))


def is_number(given: object, kind: Any = int) -> bool:
    """Returns whether `given` is a number of `kind`; true and false are none."""
    return isinstance(given, kind) and not isinstance(given, bool)


def check_block_length(given: int | None) -> None:
    """Raises RequestError unless `given` is None or a length of a block."""
    fits = given is None or (is_number(given) and 2 <= given <= 256)
    check(fits, "block_length", given, "a whole number from 2 to 256")


def check_threshold(given: float) -> None:
    check(is_number(given, int | float) and 0 < given <= 1, "threshold", given, "a number above 0, at most 1")
