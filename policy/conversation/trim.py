"""Trims a conversation that does not fit the context: which messages are dropped, and which are dropped together.

Knows roles and turns. Does not know tokens or templates: the caller passes a function that tells whether messages fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

Message = Mapping[str, Any]
Trim = Literal["oldest"]
"""Name of the order in which turns are dropped: the oldest first."""
TRIMS: Final[tuple[Trim, ...]] = get_args(Trim)


def trimmed(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> tuple[Sequence[Message], int]:
    """Returns the instructions with the longest suffix of the conversation that fits, and how many messages it dropped.

    System messages and the newest user message are always kept. Turns are dropped whole, oldest first; after the
    newest user message, an assistant's message is dropped together with the tools' answers to it. If nothing more may
    be dropped, the shortest conversation is returned although it does not fit.
    """
    head = _head(messages)
    suffixes = _suffixes(messages[head:])
    low, high = 0, len(suffixes) - 1
    while low < high:  # binary search, because dropping more never makes it longer
        middle = (low + high) // 2
        if fits([*messages[:head], *suffixes[middle]]):
            high = middle
        else:
            low = middle + 1
    kept = [*messages[:head], *suffixes[low]]
    return kept, len(messages) - len(kept)


def _head(messages: Sequence[Message]) -> int:
    """Returns how many messages at the beginning are instructions."""
    others = (index for index, message in enumerate(messages) if message["role"] not in ("system", "developer"))
    return next(others, len(messages))


def _suffixes(messages: Sequence[Message]) -> list[list[Message]]:
    """Returns the candidates for what is kept, longest first. None separates a tool's answer from its call."""
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
    """Returns the indices after `start` of the first message after a group of tool answers."""
    return [
        index
        for index in range(start + 1, len(messages))
        if messages[index - 1]["role"] == "tool" and messages[index]["role"] != "tool"
    ]


def _whole(messages: Sequence[Message]) -> bool:
    """Returns whether the call of every tool answer is among `messages`."""
    calls: set[str] = set()
    asked = False
    for message in messages:
        asked = asked or message["role"] == "assistant"
        calls |= {call.get("id", "") for call in message.get("tool_calls") or ()}
        if message["role"] == "tool" and (not asked or message.get("tool_call_id", "") not in {*calls, ""}):
            return False
    return True
