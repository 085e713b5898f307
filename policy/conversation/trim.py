"""History that does not fit the context: which messages go first, and which never go alone.

Knows roles and turns. Does not know tokens or templates: whether a conversation fits is asked of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

Message = Mapping[str, Any]
Trim = Literal["oldest"]
"""Which turns are left out where a conversation does not fit: the oldest first."""
TRIMS: Final[tuple[Trim, ...]] = get_args(Trim)


def trimmed(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> tuple[Sequence[Message], int]:
    """The longest end of the conversation that fits, and how many messages were left out of it.

    What the system says stays, and so does the newest question with all that is needed to go on from it. Turns go
    whole, oldest first; behind the last question, an assistant's messages go with the tools' answers to them. Where
    nothing that may go is left, the shortest conversation is returned although it does not fit.
    """
    head = _head(messages)
    steps = _steps(messages[head:])
    low, high = 0, len(steps) - 1
    while low < high:  # leaving out more never makes it longer
        middle = (low + high) // 2
        if fits([*messages[:head], *steps[middle]]):
            high = middle
        else:
            low = middle + 1
    kept = [*messages[:head], *steps[low]]
    return kept, len(messages) - len(kept)


def _head(messages: Sequence[Message]) -> int:
    """How many messages at the beginning are instructions."""
    told = (index for index, message in enumerate(messages) if message["role"] not in ("system", "developer"))
    return next(told, len(messages))


def _steps(messages: Sequence[Message]) -> list[list[Message]]:
    """What is left after each cut, the whole first. No cut parts an answer of a tool from its call."""
    questions = [index for index, message in enumerate(messages) if message["role"] == "user"]
    starts = [index for index in questions if index and _whole(messages[index:])]
    last = questions[-1] if questions else -1
    question = list(messages[last : last + 1]) if questions else []
    inside = [index for index in _rounds(messages, last + 1) if _whole(messages[index:])]
    return [
        list(messages),
        *(list(messages[start:]) for start in starts),
        *(question + list(messages[start:]) for start in inside),
    ]


def _rounds(messages: Sequence[Message], start: int) -> list[int]:
    """Where, behind `start`, an assistant goes on after tools have answered."""
    return [
        index
        for index in range(start + 1, len(messages))
        if messages[index - 1]["role"] == "tool" and messages[index]["role"] != "tool"
    ]


def _whole(messages: Sequence[Message]) -> bool:
    """Whether every answer of a tool has its call here."""
    calls: set[str] = set()
    asked = False
    for message in messages:
        asked = asked or message["role"] == "assistant"
        calls |= {call.get("id", "") for call in message.get("tool_calls") or ()}
        if message["role"] == "tool" and (not asked or message.get("tool_call_id", "") not in {*calls, ""}):
            return False
    return True
