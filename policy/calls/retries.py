"""Tier `checked`: attempts with other seeds until the finished output fulfils what the grammar does not hold.

Knows calls, and the error of an attempt that failed. Does not know how one attempt is decoded, nor schemas. The number
of attempts is bounded, and each of them is a call of its own, with its own span and record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ..errors import Attempt, CheckFailed
from .call import Call
from .result import Result

RETRY_TEMPERATURE: Final = 0.7
"""Of attempts after a greedy one, which no other seed would change."""
_SEEDS: Final = 2**64


@dataclass(slots=True)
class Tries:
    """The attempts at one call: `call` is the next one's."""

    call: Call
    failed: list[Attempt] = field(default_factory=list)

    def failure(self, error: CheckFailed) -> None:
        """Notes an attempt that failed and prepares the next. Raises CheckFailed, with all of them, after the last."""
        self.failed += error.attempts
        settings = self.call.plan.settings
        tried, retries = len(self.failed), settings.retries or 0
        if tried > retries:
            last = CheckFailed(error.text, error.violation, self.failed)
            last.result = error.result
            raise last from None
        seed = ((settings.seed or 0) + 1) % _SEEDS
        temperature = settings.temperature or RETRY_TEMPERATURE
        note = f"attempt {tried + 1} of at most {retries + 1}: the one before broke the schema; seed={seed}"
        if not settings.temperature:
            note += f" and temperature={temperature}, because greedy decoding repeats itself"
        plan = replace(self.call.plan, settings=replace(settings, seed=seed, temperature=temperature))
        self.call = replace(self.call, plan=plan, notes=(*self.call.notes, note), retried=True)

    def success(self, result: Result) -> Result:
        return replace(result, failed=tuple(self.failed)) if self.failed else result


def attempted(call: Call, once: Callable[[Call], Result]) -> Result:
    """The result of the first attempt that holds. Raises CheckFailed after the last one allowed."""
    tries = Tries(call)
    while True:
        try:
            return tries.success(once(tries.call))
        except CheckFailed as error:
            tries.failure(error)


async def aattempted(call: Call, once: Callable[[Call], Awaitable[Result]]) -> Result:
    """`attempted` for tasks."""
    tries = Tries(call)
    while True:
        try:
            return tries.success(await once(tries.call))
        except CheckFailed as error:
            tries.failure(error)
