"""What the engine gives, as a result or event by event, as the events of one choice: text, thinking, tool calls.

Knows the engine's results and stream events. Does not know HTTP. A turn's segments and calls are passed on as they are;
a step of kind tool_call, whose text is {"name": ..., "arguments": {...}}, is one call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any
from uuid import uuid4

from trimode.policy.calls import Call, Result, StreamEvent

from .ask import Ask
from .events import CallDelta, Event, Finish, Finished, MadeCall, TextDelta, Usage


class TurnView:
    """One choice of an ask."""

    def __init__(self, choice: int, call: Call, ask: Ask) -> None:
        self.choice, self._ask, self._calls_only = choice, ask, call.kind == "tool_call"

    def feed(self, event: StreamEvent) -> Iterator[Event]:
        """Yields the deltas of an event that is no preview; those of a call follow when it is whole."""
        if not event.provisional and event.text and not self._calls_only:
            yield TextDelta(choice=self.choice, text=event.text)

    def end(self, result: Result) -> Iterator[Event]:
        """Yields what is left of the output, and `Finished`."""
        calls = self._calls(result)
        for index, call in enumerate(calls):
            yield CallDelta(choice=self.choice, index=index, id=call.id, name=call.name, arguments=call.arguments)
        yield Finished(
            choice=self.choice,
            content=None if self._calls_only else result.answer,
            thinking=result.thinking,
            calls=calls,
            finish=_finish(result, calls),
            usage=_usage(result),
            report=report(result, self._ask.caller.session),
            token_ids=result.token_ids,
        )

    def _calls(self, result: Result) -> tuple[MadeCall, ...]:
        if not self._calls_only:
            return ()
        made = json.loads(result.answer)
        arguments = json.dumps(made["arguments"], ensure_ascii=False)
        return (MadeCall(id=f"call_{uuid4().hex}", name=made["name"], arguments=arguments),)


def _finish(result: Result, calls: Sequence[MadeCall]) -> Finish:
    return "tool_calls" if calls and result.finish_reason == "stop" else result.finish_reason


def _usage(result: Result) -> Usage:
    stats = result.stats
    return Usage(
        prompt=stats.prompt_tokens,
        cached=stats.cached_tokens,
        output=stats.output_tokens,
        accepted=stats.accepted,
        rejected=stats.rejected,
    )


def report(result: Result, session: str | None) -> dict[str, Any]:
    """Returns what was done, for the field `trimode`: modes by segment, passes, counts, the reason, the record's id."""
    stats, plan = result.stats, result.plan
    return {
        "record": result.audit_id,
        "session": session,
        "step": plan.context.name,
        "kind": plan.context.kind,
        "mode": plan.mode,
        "reason": plan.reason,
        "segments": [_segment(kind, modes) for kind, modes in [(plan.context.kind, _modes(result))]],
        "passes": stats.forward_passes,
        "prefill_passes": stats.prefill_passes,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "rejected": stats.rejected,
        "corrected": stats.corrected,
        "forced": stats.forced,
        "seed": result.seed,
        "valid": result.valid,
        "guarantee": result.guarantee,
        "notes": list(result.notes),
    }


def _segment(kind: str, modes: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "modes": list(modes)}


def _modes(result: Result) -> list[str]:
    """Returns the modes that decoded the output, in order, each run of one mode once."""
    return [mode for mode, _ in groupby(round_.mode for round_ in result.trace)]
