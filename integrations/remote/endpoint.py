"""One pool: its server's client, driver, limit and circuit, and what probes found.

Knows one server. Does not know other pools, or when to try again. To be used in one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from trimode.policy.remote import (
    CallRefused,
    Capabilities,
    CircuitOpen,
    ConstraintNotHeld,
    Pool,
    RemoteAnswer,
    RemoteError,
    RemoteRequest,
    Retry,
    ServerBusy,
    Timeouts,
)

from .admission import PoolAdmission
from .drivers.openai import Driver
from .probe import form_of, probe_answer, probe_of
from .scoring import likeliest, scored
from .stream import Show, read_answer
from .transport.circuit import Circuit
from .transport.client import Client


@dataclass(slots=True)
class Endpoint:
    """A pool that can be asked. `probes`: whether forms of constraints are tried first."""

    name: str
    pool: Pool
    driver: Driver
    client: Client
    timeouts: Timeouts
    circuit: Circuit
    probes: bool
    slots: asyncio.Semaphore
    can: Capabilities | None = None
    _held: dict[str, bool] = field(default_factory=dict)
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, name: str, pool: Pool, driver: Driver, timeouts: Timeouts, retry: Retry, probes: bool) -> Endpoint:
        """Opens a pool. Raises RequestError where the variable with its key is not set."""
        client = Client(name, pool.url, pool.api_key_env, timeouts, pool.limit)
        circuit = Circuit(retry.failures, retry.cooldown)
        return cls(name, pool, driver, client, timeouts, circuit, probes, asyncio.Semaphore(pool.limit))

    async def read(self) -> Capabilities:
        """Asks the server what it is. Raises RemoteError."""
        self.can = await self.driver.read(self.client, self.name, self.pool)
        return self.can

    async def answer(self, request: RemoteRequest, admission: PoolAdmission, show: Show | None) -> RemoteAnswer:
        """Makes one attempt. Raises RemoteError; CircuitOpen without asking the server."""
        async with self.slots, self._counted():
            can = self.can or await self.read()
            if request.scoring:
                return await self._scored(request, can)
            held = await self._probed(request, admission, can)
            return await self._answer(request, admission, can, show, held)

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[None]:
        """Tells the circuit how an attempt went; what was the caller's doing does not count."""
        if not self.circuit.begin():
            raise CircuitOpen(self.name, self.circuit.failed, self.circuit.remaining())
        try:
            yield
        except (CallRefused, ConstraintNotHeld):
            self.circuit.succeed()
            raise
        except RemoteError as error:
            busy = isinstance(error, ServerBusy) and error.status == 429
            self.circuit.abandon() if busy else self.circuit.fail()
            raise
        except BaseException:
            self.circuit.abandon()
            raise
        self.circuit.succeed()

    async def _probed(self, request: RemoteRequest, admission: PoolAdmission, can: Capabilities) -> bool | None:
        """Returns whether the server is known to keep the constraint; None where there is none, or no probe is wanted.

        Raises ConstraintNotHeld where it does not and the caller did not ask for "checked".
        """
        form = form_of(request, admission, can)
        if form is None or not self.probes:
            return None
        async with self._probing:
            if form not in self._held:
                asked, expected = probe_of(form, can)
                made = PoolAdmission(asked.constraint, True, ())
                found = await self._answer(asked, made, can, None, None)
                self._held[form] = probe_answer(form, found) == expected
                if not self._held[form] and not _checked(request):
                    raise ConstraintNotHeld(self.name, form, found.text)
        if not self._held[form] and not _checked(request):
            raise ConstraintNotHeld(self.name, form, "what it got at the first call")
        return self._held[form]

    async def _answer(
        self,
        request: RemoteRequest,
        admission: PoolAdmission,
        can: Capabilities,
        show: Show | None,
        held: bool | None,
    ) -> RemoteAnswer:
        began, reader = time.perf_counter(), self.driver.reader(self.name, request)
        sent = self.driver.written(request, can, admission)
        max_seconds = None if request.held else request.max_seconds
        ended = await read_answer(self.client, sent, reader, self.timeouts, show, max_seconds)
        notes = [ended.note] if ended.note else []
        if held is False:
            notes.append("a probe shows that the server ignores this constraint: it was checked in the output alone")
        return RemoteAnswer(
            **self._who(request, can, began),
            text=self.driver.text_of(request, reader),
            thinking=reader.thinking or None,
            calls=reader.calls if request.turn is not None else (),
            finish_reason=ended.finish,
            model=reader.model or can.model,
            first_seconds=ended.first_seconds,
            cut=ended.cut,
            held=held,
            reported=self.driver.reported(reader),
            response_id=reader.response_id,
            fingerprint=reader.fingerprint,
            notes=tuple(notes),
            body=sent.body,
        )

    async def _scored(self, request: RemoteRequest, can: Capabilities) -> RemoteAnswer:
        """Scores instead of writing."""
        began, scorer = time.perf_counter(), self.driver.scorer
        assert scorer is not None
        found = await scored(self.client, scorer, can, request)
        pairs = zip(request.scoring, found.logprobs, strict=True)
        return RemoteAnswer(
            **self._who(request, can, began),
            text="\n".join(likeliest(one, logprobs) for one, logprobs in pairs if one.options),
            finish_reason="stop",
            model=can.model,
            scores=found,
        )

    def _who(self, request: RemoteRequest, can: Capabilities, began: float) -> dict[str, Any]:
        """Returns the fields of an answer that tell who gave it, and in how many seconds."""
        return {
            "pool": self.name,
            "kind": can.kind,
            "mode": request.mode if request.mode in can.modes else can.modes[0],
            "method": can.method,
            "version": can.version,
            "seconds": time.perf_counter() - began,
            "exactness": can.exactness,
            "seeds": can.seeds,
        }


def _checked(request: RemoteRequest) -> bool:
    return request.constraint is not None and request.constraint.checked
