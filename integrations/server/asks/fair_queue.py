"""A queue in front of the engine: at most so many calls run, the others wait, and tenants take turns.

Knows tenants by name. Does not know calls. A tenant with many waiting calls delays its own only: a free slot goes to
the tenant that has waited longest for its turn, and no tenant holds more than its share of slots or waiting places.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import ceil
from typing import Final

from ..refusals import OutOfTime, TooManyWaiting

_MEMORY: Final = 0.9
"""Weight of the past in the mean duration of a call."""
_PATIENCE: Final = (1, 60)
"""Bounds of Retry-After, in seconds."""


class FairQueue:
    """`slots` calls run at once and `places` wait; of one tenant at most `tenant_slots` and `tenant_places`."""

    def __init__(
        self, slots: int, places: int, tenant_slots: int | None = None, tenant_places: int | None = None
    ) -> None:
        self.slots: int = slots
        self.places: int = places
        self._tenant_slots, self._tenant_places = tenant_slots or slots, tenant_places or places
        self._running = Counter[str]()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._mean_seconds = 1.0

    @property
    def running(self) -> int:
        """Number of slots in use."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return sum(not place.cancelled() for line in self._waiting.values() for place in line)

    @asynccontextmanager
    async def slot(self, tenant: str, patience: float | None = None) -> AsyncGenerator[None]:
        """Holds a slot while the block runs; waits for it first, at most `patience` seconds.

        Raises TooManyWaiting where no place is left, and OutOfTime.
        """
        try:
            async with asyncio.timeout(patience):
                await self._enter(tenant)
        except TimeoutError:
            raise OutOfTime(f"no slot was free within {patience:g} s", retry_after=self.retry_after) from None
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds = _MEMORY * self._mean_seconds + (1 - _MEMORY) * (time.monotonic() - began)
            self._leave(tenant)

    def check(self, calls: int, tenant: str) -> None:
        """Raises TooManyWaiting if `calls` more could not even wait."""
        own = len(self._waiting.get(tenant, ()))
        now = min(self.slots - self.running, self._tenant_slots - self._running[tenant]) if not own else 0
        more = max(calls - max(now, 0), 0)
        if self.waiting + more > self.places or own + more > self._tenant_places:
            raise TooManyWaiting(
                f"{self.waiting} requests wait already, {own} of them yours; at most {self.places} may, of one key "
                f"{self._tenant_places}; try again later",
                retry_after=self.retry_after,
            )

    @property
    def retry_after(self) -> int:
        """Seconds after which a place is likely to be free, from the mean duration of calls so far."""
        low, high = _PATIENCE
        return min(max(ceil(self._mean_seconds * (self.waiting + 1) / self.slots), low), high)

    async def _enter(self, tenant: str) -> None:
        self.check(1, tenant)
        if self._may_run(tenant) and tenant not in self._waiting:
            self._running[tenant] += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the slot was given away in the same moment
                self._leave(tenant)
            else:
                self._forget(tenant, place)
            raise

    def _may_run(self, tenant: str) -> bool:
        return self.running < self.slots and self._running[tenant] < self._tenant_slots

    def _leave(self, tenant: str) -> None:
        self._running[tenant] -= 1
        self._running += Counter()  # forgets tenants that run nothing
        self._fill()

    def _fill(self) -> None:
        """Gives free slots to the waiting, one tenant after another."""
        while (tenant := next((name for name in self._waiting if self._may_run(name)), None)) is not None:
            place = self._waiting[tenant].popleft()
            self._waiting.move_to_end(tenant)
            if not self._waiting[tenant]:
                del self._waiting[tenant]
            if not place.cancelled():  # its task has not run since it was cancelled
                self._running[tenant] += 1
                place.set_result(None)

    def _forget(self, tenant: str, place: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant, deque())
        if place in line:
            line.remove(place)
            if not line:
                del self._waiting[tenant]
