"""The budget that the steps of a session share: tokens, passes and seconds, counted call by call.

Knows calls and the counts of finished ones. Does not know engines. A call reserves its `max_tokens` while it runs, so
that concurrent steps cannot spend the same tokens twice.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Final

from trimode.engine.locks import ForkSafeLock
from trimode.engine.result import Stats

from ..calls import Call
from ..errors import AuditWriteFailed, BudgetExceeded, BudgetTooSmall, CheckFailed, PolicyError, shown
from ..remote import ReportedStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits over all steps of a session; None is no limit.

    `tokens`: output tokens, end tokens included. `passes`: forward passes, prefill included. `seconds`: decoding time
    from the scheduler's admission to the last token, summed over concurrent steps.
    """

    tokens: int | None = None
    passes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "passes", "seconds"):
            limit = getattr(self, name)
            if limit is None:
                continue
            kind = "number" if name == "seconds" else "whole number"
            if isinstance(limit, bool) or not isinstance(limit, _KINDS[kind]) or not limit > 0:
                raise PolicyError(f"Budget({name}={shown(limit)}): expected a {kind} above 0, or None for no limit")
            object.__setattr__(self, name, float(limit) if name == "seconds" else int(limit))


_KINDS: Final[dict[str, Any]] = {"number": Real, "whole number": Integral}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Tokens, passes and seconds spent, as `Budget` counts them; without the passes of servers that report none."""

    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0

    def plus(self, stats: Stats, *, written: bool) -> Spent:
        """Returns the sum with `stats`. `written`: whether the tokens count as output; those of a choice are only
        scored."""
        return Spent(
            tokens=self.tokens + (stats.output_tokens if written else 0),
            passes=self.passes + sum(getattr(stats, name, 0) for name in ("prefill_passes", "forward_passes")),
            seconds=self.seconds + stats.seconds,
        )


@dataclass(slots=True)
class Spending:
    """One running call: `call` as cut by the budget, tokens `reserved`, tokens `shown` by a stream so far, and the
    `cost`, once known."""

    call: Call
    reserved: int
    shown: int = 0
    cost: Spent | None = None

    def count(self, stats: Stats) -> None:
        written = self.call.kind != "choice" or isinstance(stats, ReportedStats)
        self.cost = (self.cost or Spent()).plus(stats, written=written)


@dataclass(slots=True)
class Ledger:
    """The budget of one session and what was spent of it. Safe for threads and tasks."""

    budget: Budget
    spent: Spent = Spent()
    _reserved: int = 0
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock)

    @contextmanager
    def spending(self, call: Call) -> Generator[Spending]:
        """Surrounds one call: cuts it to the remaining budget and counts its cost; a failed call counts its time.
        Raises BudgetExceeded."""
        with self._lock:
            running = Spending(fitted(call, self.budget, self.spent, self._reserved), 0)
            running.reserved = _tokens(running.call) if self.budget.tokens is not None else 0
            self._reserved += running.reserved
        begin = time.perf_counter()
        try:
            yield running
        except CheckFailed as error:
            for attempt in error.attempts:
                running.count(attempt.stats)
            raise
        except AuditWriteFailed as error:
            if error.result is not None and running.cost is None:  # else the finished call was counted
                running.count(error.result.stats)
            raise
        except BudgetTooSmall as error:
            if self.budget.tokens is None or running.call.plan == call.plan:  # too small even without the session's cut
                raise
            spent = self.budget.tokens - running.reserved
            raise BudgetExceeded("tokens", spent, self.budget.tokens, call.step) from error
        finally:
            cost = running.cost or Spent(tokens=running.shown, seconds=time.perf_counter() - begin)
            with self._lock:
                self._reserved -= running.reserved
                self.spent = Spent(
                    tokens=self.spent.tokens + cost.tokens,
                    passes=self.spent.passes + cost.passes,
                    seconds=self.spent.seconds + cost.seconds,
                )


def fitted(call: Call, budget: Budget, spent: Spent, reserved: int = 0) -> Call:
    """Returns `call` cut to the remaining budget, with a note for each cut. Raises BudgetExceeded where it cannot
    start."""
    notes = list(call.notes)
    plan, settings = call.plan, call.plan.settings
    if budget.tokens is not None and (wanted := _tokens(call)):
        remaining = budget.tokens - spent.tokens - reserved
        if remaining <= (settings.max_thinking_tokens or 0):  # thinking alone would leave nothing for the answer
            raise BudgetExceeded("tokens", spent.tokens + reserved, budget.tokens, call.step)
        if remaining < wanted:
            notes.append(f"max_tokens={wanted} cut to the {remaining} tokens that the session's budget leaves")
            plan = replace(plan, settings=replace(settings, max_tokens=remaining))
    if budget.passes is not None and spent.passes >= budget.passes:
        raise BudgetExceeded("passes", spent.passes, budget.passes, call.step)
    if budget.seconds is not None and spent.seconds >= budget.seconds:
        raise BudgetExceeded("seconds", spent.seconds, budget.seconds, call.step)
    return replace(
        call,
        plan=plan,
        notes=tuple(notes),
        max_passes=None if budget.passes is None else budget.passes - spent.passes,
        max_seconds=None if budget.seconds is None else budget.seconds - spent.seconds,
    )


def _tokens(call: Call) -> int:
    """Returns the output tokens that the call may use; 0 for a choice, which is scored, not decoded."""
    return 0 if call.kind == "choice" else call.plan.settings.max_tokens or 0
