"""The pools behind one engine: which of them may serve a call, in what order, how often, and why another one did.

Knows endpoints, retries and a thread for them all. Does not know bodies or HTTP. Nothing is tried again once a piece of
a stream was shown to its caller, because the pieces of two answers do not fit together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from random import Random

from trimode.engine.errors import CallCancelled, ModeUnavailable, TrimodeError
from trimode.engine.result import EXACT, Mode
from trimode.policy.audit import AttemptMade
from trimode.policy.errors import error_type
from trimode.policy.remote import (
    Admitted,
    CallRefused,
    Capabilities,
    CircuitOpen,
    EveryPoolFailed,
    RemoteAnswer,
    RemoteError,
    RemoteRequest,
    Retry,
    StreamBroken,
    TextUpdate,
    Watch,
)

from .admission import admitted
from .endpoint import Endpoint
from .transport.loop import LoopThread
from .transport.waiting import wait_before

Open = Callable[[], Sequence[Endpoint]]


@dataclass(slots=True)
class Course:
    """What happened to one call so far. `shown`: whether a caller has seen a piece of it."""

    began: float = field(default_factory=time.perf_counter)
    attempts: list[AttemptMade] = field(default_factory=list)
    causes: dict[str, RemoteError] = field(default_factory=dict)
    shown: bool = False
    waited: float = 0.0

    def made(self, pool: str, outcome: str, began: float) -> None:
        self.attempts.append(
            AttemptMade(pool=pool, outcome=outcome, seconds=time.perf_counter() - began, waited=self.waited)
        )
        self.waited = 0.0


class Pools:
    """Fulfils `RemoteServer`. `open_`: makes the endpoints, again in a forked process. `sleep` and `random` are for
    waits between attempts."""

    def __init__(
        self,
        open_: Open,
        retry: Retry,
        fallback: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        self._open, self._retry, self._fallback = open_, retry, fallback
        self._sleep, self._random = sleep, random or Random()
        self._loop = LoopThread()
        self._endpoints: dict[str, Endpoint] = {}
        self._closed, self._live = False, 0
        self._down: dict[str, RemoteError] = {}
        try:
            self._can = self._loop.run(self._read())
        except BaseException:
            self.close()
            raise

    async def _read(self) -> dict[str, Capabilities]:
        """Opens the endpoints and asks each what it is. Raises RemoteError where none answers."""
        self._endpoints = {one.name: one for one in self._open()}
        found = await asyncio.gather(*(one.read() for one in self._endpoints.values()), return_exceptions=True)
        failed = dict[str, RemoteError]()
        for name, outcome in zip(self._endpoints, found, strict=True):
            if isinstance(outcome, RemoteError):
                failed[name] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        self._down = failed
        known = {one.name: one.can for one in self._endpoints.values() if one.can is not None}
        if not known:
            raise next(iter(failed.values())) if len(failed) == 1 else EveryPoolFailed(failed)
        return known

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:
        return self._can

    @property
    def modes(self) -> tuple[Mode, ...]:
        return tuple(dict.fromkeys(mode for can in self._can.values() for mode in can.modes))

    @property
    def live(self) -> int:
        return self._live

    def admit(self, request: RemoteRequest) -> Admitted:
        if request.mode not in self.modes and not request.scoring:  # nothing is written, in no mode
            raise ModeUnavailable(request.mode, f"a {next(iter(self._can.values())).kind} server's", self.modes)
        names, refused = list[str](), list[TrimodeError]()
        first = None
        for name in self._order(request):
            try:
                found = admitted(self._in_mode(request, self._can[name]), self._can[name])
            except TrimodeError as error:
                refused.append(error)
                continue
            first = first or found
            names.append(name)
        if first is None:
            raise refused[0]
        down = (f"pool {name!r} did not answer when the engine was made: {error}" for name, error in self._down.items())
        return Admitted(pools=tuple(names), enforced=first.enforced, notes=(*first.notes, *down))

    def _order(self, request: RemoteRequest) -> list[str]:
        """Returns the pools in the order in which they are tried: those of the mode, then `ar`, then others."""
        if request.scoring:
            own = [name for name, can in self._can.items() if can.scores] or [*self._can]
            return own if self._fallback else own[:1]
        own = [name for name, can in self._can.items() if request.mode in can.modes]
        if not self._fallback:
            return own[:1]
        allowed = [
            name
            for name, can in self._can.items()
            if name not in own and any(mode in EXACT or not request.exact for mode in can.modes)
        ]
        others = sorted(allowed, key=lambda name: "ar" not in self._can[name].modes)
        return [*own, *others]

    @staticmethod
    def _in_mode(request: RemoteRequest, can: Capabilities) -> RemoteRequest:
        """Returns the request in a mode that a pool has, where it stands in for another."""
        if request.mode in can.modes:
            return request
        return replace(request, mode=next((mode for mode in can.modes if mode in EXACT), can.modes[0]), knobs={})

    def submit(self, request: RemoteRequest, watch: Watch | None = None) -> Future[RemoteAnswer]:
        if self._closed:
            raise CallCancelled("the engine was closed")
        if self._loop.fresh:  # a forked process has neither the thread nor the connections
            self._live, self._can = 0, self._loop.run(self._read())
        return self._loop.submit(self._served(request, watch))

    async def _served(self, request: RemoteRequest, watch: Watch | None) -> RemoteAnswer:
        self._live += 1
        course = Course()
        try:
            return await self._through_pools(request, watch, course)
        except RemoteError as error:
            error.attempts = tuple(course.attempts)
            raise
        finally:
            self._live -= 1

    async def _through_pools(self, request: RemoteRequest, watch: Watch | None, course: Course) -> RemoteAnswer:
        """Tries the pools in order. Raises the error of the only one, or EveryPoolFailed."""
        names = self.admit(request).pools
        for name in names:
            answer = await self._at(self._endpoints[name], request, watch, course)
            if answer is not None:
                return self._finished(answer, course)
        causes = course.causes
        raise next(iter(causes.values())) if len(causes) == 1 else EveryPoolFailed(causes)

    async def _at(
        self, endpoint: Endpoint, request: RemoteRequest, watch: Watch | None, course: Course
    ) -> RemoteAnswer | None:
        """Tries one pool, again where that is safe; None where another pool may be tried. Raises RemoteError where
        none may."""
        asked = self._in_mode(request, self._can[endpoint.name])
        made = admitted(asked, self._can[endpoint.name])
        for tried in range(1, self._retry.attempts + 1):
            began = time.perf_counter()
            try:
                answer = await endpoint.answer(asked, made, _showing(watch, course))
            except RemoteError as error:
                course.made(endpoint.name, error_type(error), began)
                course.causes[endpoint.name] = error
                if course.shown:
                    raise _broken(error) from None
                if isinstance(error, CallRefused):
                    raise
                if not error.again or tried == self._retry.attempts or isinstance(error, CircuitOpen):
                    return None
                wait = wait_before(self._retry, tried, error, self._random)
                if wait is None:
                    return None
                course.waited = wait
                await self._sleep(wait)
            except asyncio.CancelledError:
                course.made(endpoint.name, "cancelled", began)
                raise
            else:
                course.made(endpoint.name, "answered", began)
                return answer
        return None

    @staticmethod
    def _finished(answer: RemoteAnswer, course: Course) -> RemoteAnswer:
        notes = [
            f"pool {name!r} did not answer: {error}" for name, error in course.causes.items() if name != answer.pool
        ]
        again = course.causes.get(answer.pool)
        if again is not None:
            tries = sum(one.pool == answer.pool for one in course.attempts)
            notes.append(f"pool {answer.pool!r} answered at attempt {tries}: {again}")
        seconds = time.perf_counter() - course.began
        return replace(answer, attempts=tuple(course.attempts), notes=(*answer.notes, *notes), seconds=seconds)

    def close(self) -> None:
        """Cancels all calls and closes all connections; later calls are refused."""
        if self._closed:
            return
        self._closed = True
        if not self._loop.fresh:
            self._loop.run(self._shut())
        self._loop.close()

    async def _shut(self) -> None:
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.client.close() for one in self._endpoints.values()), return_exceptions=True)


def _showing(watch: Watch | None, course: Course) -> Callable[[TextUpdate], None] | None:
    if watch is None:
        return None

    def show(update: TextUpdate) -> None:
        course.shown = True
        watch(update)

    return show


def _broken(error: RemoteError) -> RemoteError:
    """Returns the error of a stream that was begun: what was shown stays shown."""
    return error if isinstance(error, StreamBroken) else StreamBroken(error.pool, str(error), "")
