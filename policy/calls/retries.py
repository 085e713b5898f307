"""Retries under guarantee="checked": new seeds until the output fulfils the rules that the grammar cannot enforce.

Knows calls, and the error of a failed attempt. Does not know schemas, or how one attempt is decoded. The number of
attempts is bounded, and each is a call of its own, with its own span and record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ..errors import Attempt, CheckFailed
from .call import Call
from .result import Result

RETRY_TEMPERATURE: Final = 0.7
"""Temperature of attempts after a greedy one, because another seed does not change greedy decoding."""
_SEEDS: Final = 2**64


@dataclass(slots=True)
class Attempts:
    """The attempts at one call. `call`: the next attempt. `failed`: the earlier ones."""

    call: Call
    failed: list[Attempt] = field(default_factory=list)

    def failure(self, error: CheckFailed) -> None:
        """Adds a failed attempt and prepares the next one. Raises CheckFailed, with all attempts, after the last."""
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
        """Returns `result` with the failed attempts before it."""
        return replace(result, failed=tuple(self.failed)) if self.failed else result


def attempted(call: Call, once: Callable[[Call], Result]) -> Result:
    """Returns the result of the first attempt that fulfils its schema. Raises CheckFailed after the last one."""
    attempts = Attempts(call)
    while True:
        try:
            return attempts.success(once(attempts.call))
        except CheckFailed as error:
            attempts.failure(error)


async def aattempted(call: Call, once: Callable[[Call], Awaitable[Result]]) -> Result:
    """`attempted` for asyncio tasks."""
    attempts = Attempts(call)
    while True:
        try:
            return attempts.success(await once(attempts.call))
        except CheckFailed as error:
            attempts.failure(error)
