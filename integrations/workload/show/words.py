"""Numbers of a study as people read them.

Knows numbers. Does not know tables or pages.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..scoring.intervals import Interval

NONE: Final = ""
"""What stands where a number does not apply."""
ONE_LOOP: Final = "one loop: no limits"
"""What stands in the place of limits that one loop cannot give."""


def percent(one: Interval | None) -> str:
    """Returns `91 % (84 to 95)`."""
    if one is None:
        return NONE
    return f"{100 * one.value:.0f} % ({100 * one.low:.0f} to {100 * one.high:.0f})"


def score(one: Interval | None) -> str:
    """Returns `0.91 (0.84 to 0.95)`."""
    return NONE if one is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def seconds(one: Interval | None) -> str:
    """Returns `0.091 (0.080 to 0.110)`, with the digits that its size asks for."""
    return NONE if one is None else f"{one.value:{_digits(one.value)}} ({_limits(one)})"


def _limits(one: Interval) -> str:
    if one.high == inf:
        return ONE_LOOP
    return f"{one.low:{_digits(one.value)}} to {one.high:{_digits(one.value)}}"


def _digits(value: float) -> str:
    return ".3f" if value < 1 else ".2f" if value < 10 else ".1f"


def money(one: Interval | None, currency: str) -> str:
    """Returns the cost of a thousand calls: `1.91 (1.80 to 2.10) USD`."""
    if one is None:
        return NONE
    low, value, high = (1000 * at for at in (one.low, one.value, one.high))
    if high == inf:
        return f"{value:,.3g} ({ONE_LOOP}) {currency}".rstrip()
    return f"{value:,.3g} ({low:,.3g} to {high:,.3g}) {currency}".rstrip()


def change(one: Interval | None) -> str:
    """Returns a ratio as a change: `-31 % (-38 to -24)`."""
    if one is None:
        return NONE
    low, value, high = (f"{100 * (at - 1):+.0f}" for at in (one.low, one.value, one.high))
    if one.high == inf:
        return f"{value} % ({ONE_LOOP})"
    return f"{value} % ({low} to {high})"


def points(one: Interval | None) -> str:
    """Returns a difference of scores: `-0.02 (-0.10 to +0.06)`."""
    return NONE if one is None else f"{one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})"


def plain(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f} %"


def many(count: int, thing: str) -> str:
    """Returns `1 call` or `2,000 calls`."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
