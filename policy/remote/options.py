"""How a server is reached: endpoints, timeouts and retries, as the caller gives them.

Knows numbers and names. Does not know HTTP. Keys are never here, only the name of the variable that holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypedDict
from urllib.parse import urlsplit

from trimode.engine.errors import RequestError
from trimode.engine.result import Mode

METHODS: Final[Mapping[str, Mode]] = {
    "ar": "ar", "plain": "ar",
    "ngram": "lookup_spec", "lookup_spec": "lookup_spec",
    "eagle": "linear_spec", "eagle3": "linear_spec", "mtp": "linear_spec", "medusa": "linear_spec",
    "draft": "linear_spec", "uno": "linear_spec", "dflash": "linear_spec", "linear_spec": "linear_spec",
    "quadratic_spec": "quadratic_spec",
    "diffusion": "diffusion",
}  # fmt: skip
"""Mode of each way to decode that servers are launched with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One endpoint, which decodes in one way.

    `method`: how it was launched, one of METHODS; empty: as the server reports, else plain. `kind`, `model`,
    `api_key_env`: of the engine, unless given. `limit`: calls that run there at a time. `name`: empty, the method.
    """

    url: str
    method: str = ""
    name: str = ""
    kind: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    limit: int = 16

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.method and self.method not in METHODS:
            raise RequestError(f"Pool(method={self.method!r}): expected one of {', '.join(METHODS)}")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise RequestError(f"Pool(limit={self.limit!r}): expected a whole number from 1")


def check_url(url: object) -> None:
    """Raises RequestError for what is no URL of a server, and for one with a key or password in it."""
    if not isinstance(url, str):
        raise RequestError(f"url={url!r}: expected the address of a server, such as http://127.0.0.1:8000")
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        parts, wrong = urlsplit(""), True
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise RequestError("the URL has credentials, a query or a fragment in it; name a variable: api_key_env=...")
    if wrong:
        raise RequestError(f"url={url!r}: expected http:// or https://, a host and a port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds for each phase of a call: to connect, and to be told what the server is; to send; to the first piece of
    the answer; and between pieces."""

    connect: float = 5.0
    write: float = 30.0
    first: float = 120.0
    next: float = 60.0

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a pool is tried, and how long is waited: up to `base` seconds, doubled each time, at most `cap`.

    The wait is drawn at random below that bound, so that callers do not return together; a server's Retry-After is
    kept where it is at most `cap`. `failures` in a row open the pool's circuit for `cooldown` seconds.
    """

    attempts: int = 3
    base: float = 0.25
    cap: float = 20.0
    failures: int = 5
    cooldown: float = 5.0

    def __post_init__(self) -> None:
        _check_positive(self)


class RemoteOptions(TypedDict, total=False):
    """Keyword arguments of `Engine.remote`.

    `model`: default, the first that the server lists. `pools`: further endpoints, each with a mode. `api_key_env`: name
    of the environment variable with the key. `limit`: calls at a time at the first URL. `method`: how the server there
    was launched. `fallback`: whether another pool may serve a call when one fails (default: yes). `probe`: whether each
    form of constraint is tried once, with a value that no model can guess, before the first call that needs it
    (default: yes).
    """

    model: str | None
    pools: Sequence[Pool]
    api_key_env: str | None
    method: str
    limit: int
    timeouts: Timeouts
    retry: Retry
    fallback: bool
    probe: bool


def _check_positive(given: Timeouts | Retry) -> None:
    for field in fields(given):
        value = getattr(given, field.name)
        whole = isinstance(field.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
            expected = "a whole number" if whole else "a number"
            raise RequestError(f"{type(given).__name__}({field.name}={value!r}): expected {expected} above 0")
