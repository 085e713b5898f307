"""The pieces of a streamed turn, as frameworks take them: text, thinking, what is added to a tool call, the result.

Knows stream events. Does not know engines or frameworks.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode.policy.calls import Result, StreamEvent
from trimode.policy.turns import CallDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece. `thinking` and `text` are apart; `result` is set in the last piece only."""

    text: str = ""
    thinking: str = ""
    call: CallDelta | None = None
    result: Result | None = None


def piece_of(event: StreamEvent, is_turn: bool) -> Piece | None:
    """Returns what an event adds; None for previews, and of a turn for the markers between its segments."""
    if event.result is not None:
        return Piece(text="" if is_turn else event.text, result=event.result)
    if event.provisional or not (event.text or event.call):
        return None
    if event.call is not None:
        return Piece(call=event.call)
    kind = event.segment.kind if event.segment is not None else None if is_turn else "prose"
    if kind == "thinking":
        return Piece(thinking=event.text)
    return Piece(text=event.text) if kind in ("prose", "json") else None
