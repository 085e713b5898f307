"""`Engine.remote`: from a URL and a kind to an engine over pools.

Knows kinds, drivers and the options of the caller. Does not know what is asked. `register` adds a kind of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.policy.calls import Engine, RemoteEngine
from trimode.policy.remote import Pool, RemoteOptions, Retry, Timeouts

from .drivers.llamacpp import LlamaCppDriver
from .drivers.openai import Driver
from .drivers.profiles import MlxDriver, TensorRtDriver, TgiDriver
from .drivers.sglang import SglangDriver
from .drivers.trimode import TrimodeDriver
from .drivers.vllm import VllmDriver
from .endpoint import Endpoint
from .pools import Pools

_DRIVERS: Final[dict[str, Driver]] = {
    driver.kind: driver
    for driver in (
        Driver(), VllmDriver(), SglangDriver(), LlamaCppDriver(), TrimodeDriver(), TensorRtDriver(), TgiDriver(),
        MlxDriver(),
    )
}  # fmt: skip


def register(driver: Driver) -> None:
    """Adds a kind of server, or replaces one."""
    _DRIVERS[driver.kind] = driver


def connect(url: str, kind: str, options: RemoteOptions) -> Engine:
    """Returns an engine over the server at `url` and the pools in `options`. Raises RequestError, RemoteError."""
    given: dict[str, Any] = {**options}
    if unknown := sorted(set(given) - set(RemoteOptions.__annotations__)):
        known = ", ".join(sorted(RemoteOptions.__annotations__))
        raise RequestError(f"Engine.remote(): unknown argument {unknown[0]!r}; known: url, kind, {known}")
    own = {name: given[name] for name in ("model", "api_key_env", "method", "limit") if given.get(name) is not None}
    first = Pool(url=url, kind=kind, **own)
    pools = named([first, *(_completed(pool, first) for pool in _listed(given.get("pools", ())))])
    timeouts, retry = given.get("timeouts") or Timeouts(), given.get("retry") or Retry()
    _check(timeouts=(timeouts, Timeouts), retry=(retry, Retry))
    probes = bool(given.get("probe", True))
    drivers = {name: driver_of(pool.kind) for name, pool in pools.items()}

    def open_() -> list[Endpoint]:
        return [Endpoint.of(name, pool, drivers[name], timeouts, retry, probes) for name, pool in pools.items()]

    found = Pools(open_, retry, bool(given.get("fallback", True)))
    return RemoteEngine(found)


def driver_of(kind: str | None) -> Driver:
    """Returns the driver of a kind. Raises RequestError for an unknown one."""
    if kind not in _DRIVERS:
        raise RequestError(f"kind={kind!r}: expected one of {', '.join(_DRIVERS)}")
    return _DRIVERS[kind]


def named(pools: Sequence[Pool]) -> Mapping[str, Pool]:
    """Returns the pools by name: the given one, else the method, else the kind, with a number where two are equal."""
    found = dict[str, Pool]()
    for pool in pools:
        base = pool.name or pool.method or str(pool.kind)
        name, number = base, 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        if pool.name and name != pool.name:
            raise RequestError(f"two pools are named {pool.name!r}; give each a name of its own")
        found[name] = pool
    return found


def _completed(pool: Pool, first: Pool) -> Pool:
    """Returns a pool with what it leaves to the engine. A key is shared with pools of the same origin's kind alone."""
    kind = pool.kind or first.kind
    key = pool.api_key_env or (first.api_key_env if kind == first.kind else None)
    return replace(pool, kind=kind, api_key_env=key)


def _listed(pools: Any) -> list[Pool]:
    if not isinstance(pools, Sequence) or isinstance(pools, str) or not all(isinstance(one, Pool) for one in pools):
        raise RequestError("pools: expected a list of Pool(url=..., method=...)")
    return list(pools)


def _check(**given: tuple[object, type]) -> None:
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise RequestError(f"{name}={value!r}: expected a {kind.__name__}")
