"""The pieces of a streamed turn, as frameworks take them: text, thinking, what is added to a tool call, the result.

Knows stream events. Does not know engines or frameworks.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode.policy.calls import CallDelta, Result, StreamEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece. `thinking` and `text` are apart; `result` is set in the last piece only."""

    text: str = ""
    thinking: str = ""
    call: CallDelta | None = None
    result: Result | None = None


def piece_of(event: StreamEvent) -> Piece | None:
    """Returns what an event adds; None for previews and markers, which are no output of a turn."""
    if event.result is not None:
        return Piece(text="" if event.result.segments else event.text, result=event.result)
    if event.provisional or not (event.text or event.call):
        return None
    if event.call is not None:
        return Piece(call=event.call)
    if event.segment is None:
        return Piece(text=event.text)
    if event.segment.kind == "thinking":
        return Piece(thinking=event.text)
    return Piece(text=event.text) if event.segment.kind != "tool_call" else None
