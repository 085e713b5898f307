"""How long to wait before a call is made again.

Knows numbers, dates and what a server asked for. Does not know calls. A date in Retry-After is compared with the
server's own Date, so that clocks that differ do not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from random import Random

from trimode.policy.remote import RemoteError, Retry, ServerBusy


def wait_before(retry: Retry, tried: int, error: RemoteError, random: Random) -> float | None:
    """Returns the seconds to wait after `tried` attempts, or None if waiting as long as the server asks is too long.

    At random from 0 to base * 2^(tried - 1), so that callers that failed together do not return together.
    """
    bound = min(retry.base * 2 ** (tried - 1), retry.cap)
    wait = random.uniform(0, bound)
    asked = error.retry_after if isinstance(error, ServerBusy) else None
    if asked is None:
        return wait
    return None if asked > retry.cap else asked + wait


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Returns the seconds of a Retry-After header, from 0 up; None without one, or where it cannot be read."""
    given = headers.get("retry-after", "").strip()
    if given.isdecimal() and len(given) < 10:
        return float(given)
    until = _seconds(given)
    if until is None:
        return None
    at = _seconds(headers.get("date", ""))
    return max(until - (now() if at is None else at), 0.0)


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
