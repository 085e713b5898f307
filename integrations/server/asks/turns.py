"""What the engine gives, as a result or event by event, as the events of one choice: text, thinking, tool calls.

Knows the engine's results, segments and stream events. Does not know HTTP. A step of kind tool_call, whose text is
{"name": ..., "arguments": {...}}, is told as one call, whenever it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, repeat
from typing import Any
from uuid import uuid4

from trimode.policy import turns
from trimode.policy.calls import Call, Result, StreamEvent

from .ask import Ask
from .events import CallDelta, Event, Finish, Finished, MadeCall, TextDelta, ThinkingDelta, Usage


class TurnView:
    """One choice of an ask."""

    def __init__(self, choice: int, call: Call, ask: Ask) -> None:
        self.choice: int = choice
        self._call, self._session = call, ask.caller.session

    def feed(self, event: StreamEvent) -> Iterator[Event]:
        """Yields the delta of a stream's event. Previews, and markers between two segments, have none."""
        if event.provisional or self._call.kind == "tool_call":
            return
        if event.call is not None:
            yield self._piece(event.call)
        elif event.text and self._call.kind != "turn":
            yield TextDelta(choice=self.choice, text=event.text)
        elif event.text and event.segment is not None and event.segment.kind != "tool_call":
            delta = ThinkingDelta if event.segment.kind == "thinking" else TextDelta
            yield delta(choice=self.choice, text=event.text)

    def end(self, result: Result) -> Iterator[Event]:
        """Yields a call that could not be told before, and `Finished`."""
        made = _single_call(result) if self._call.kind == "tool_call" else _made_calls(result)
        if self._call.kind == "tool_call":
            for call in made:
                yield CallDelta(choice=self.choice, index=0, id=call.id, name=call.name, arguments=call.arguments)
        yield Finished(
            choice=self.choice,
            content=None if self._call.kind == "tool_call" else result.content,
            thinking=result.thinking,
            calls=made,
            finish=_finish(result, made),
            usage=_usage(result),
            report=report(result, self._session),
            token_ids=result.token_ids,
        )

    def _piece(self, delta: turns.CallDelta) -> CallDelta:
        first = delta.name is not None
        return CallDelta(
            choice=self.choice,
            index=delta.index,
            id=delta.id if first else None,
            name=delta.name,
            arguments=delta.arguments,
        )


def _made_calls(result: Result) -> tuple[MadeCall, ...]:
    texts = [one.text for one in result.segments if one.kind == "tool_call"]
    written = _written("".join(texts), [call.arguments for call in result.calls])
    return tuple(
        MadeCall(id=call.id, name=call.name, arguments=text) for call, text in zip(result.calls, written, strict=True)
    )


def _single_call(result: Result) -> tuple[MadeCall, ...]:
    """Returns the call of a step of kind tool_call, whose output has no ids."""
    made = json.loads(result.answer)
    (arguments,) = _written(result.answer, [made["arguments"]])
    return (MadeCall(id=f"call_{uuid4().hex}", name=made["name"], arguments=arguments),)


def _written(text: str, calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the JSON text of each call's arguments as the model wrote it: to it the pieces of a stream add up, and a
    number has all its digits. Text in another form than grammars write is written anew."""
    found = dict[int, str]()
    for delta in turns.CallReader(repeat("")).feed(text):
        found[delta.index] = found.get(delta.index, "") + delta.arguments
    if len(found) == len(calls):
        return [*found.values()]
    return [json.dumps(call, ensure_ascii=False, separators=(",", ":")) for call in calls]


def _finish(result: Result, made: Sequence[MadeCall]) -> Finish:
    return "tool_calls" if made and result.finish_reason == "stop" else result.finish_reason


def _usage(result: Result) -> Usage:
    stats = result.stats
    return Usage(
        prompt=stats.prompt_tokens,
        cached=stats.cached_tokens,
        output=stats.output_tokens,
        thinking=sum(one.end - one.start for one in result.segments if one.kind == "thinking"),
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
        "segments": list(_segments(result)),
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


def _segments(result: Result) -> Iterator[dict[str, Any]]:
    """Yields kind, tokens (`start` to `end`), modes and reason of each segment; output that is no turn is one."""
    for one in result.segments:
        yield {"kind": one.kind, "start": one.start, "end": one.end, "modes": list(one.modes), "reason": one.reason}
    if not result.segments:
        modes = [mode for mode, _ in groupby(round_.mode for round_ in result.trace)]
        plan, end = result.plan, len(result.token_ids)
        yield {"kind": plan.context.kind, "start": 0, "end": end, "modes": modes, "reason": plan.reason}
