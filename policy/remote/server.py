"""The protocol of what stands between `RemoteEngine` and servers: pools that admit and answer requests.

Knows requests and answers. Does not know how a pool is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from trimode.engine.jobs import Update
from trimode.engine.result import Mode

from .answer import RemoteAnswer
from .capabilities import Capabilities
from .request import RemoteRequest

Watch = Callable[[Update], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that some pool can serve. `pools`: names of those, in the order in which they are tried; `notes`: on
    what will not be as asked. `enforced`: whether the first pool keeps the whole constraint."""

    pools: tuple[str, ...]
    enforced: bool = True
    notes: tuple[str, ...] = ()


class RemoteServer(Protocol):
    """The pools behind one engine. Safe for threads."""

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:
        """Returns what each pool can do, by its name, the first pool first."""
        ...

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Returns the modes that some pool decodes in."""
        ...

    @property
    def live(self) -> int:
        """Returns the number of calls that run or wait."""
        ...

    def admit(self, request: RemoteRequest) -> Admitted:
        """Returns which pools can serve the request. Raises RequestError, SchemaRefused or PolicyError if none can."""
        ...

    def submit(self, request: RemoteRequest, watch: Watch | None = None) -> Future[RemoteAnswer]:
        """Sends a request. `watch` is called with each piece, from another thread. Cancelling the future closes the
        connection. The future raises RemoteError."""
        ...

    def close(self) -> None:
        """Cancels all calls and closes all connections."""
        ...
