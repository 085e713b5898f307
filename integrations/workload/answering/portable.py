"""Messages as any server of OpenAI's API takes them.

Knows the messages of recorded episodes, whose calls are texts of a kind of their own. Does not know servers. Only the
form changes: a call becomes an entry of `tool_calls`, and the answer after it gets its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Json = Any
_OWN: Final = ("kind", "schema")
"""Keys that our chat templates know and servers refuse."""


def portable(messages: Sequence[Mapping[str, Json]]) -> tuple[Mapping[str, Json], ...]:
    """Returns the messages without keys of ours. Messages that have none are returned as they are."""
    return tuple(_portable(messages))


def _portable(messages: Sequence[Mapping[str, Json]]) -> Iterator[Mapping[str, Json]]:
    unanswered = ""
    for at, message in enumerate(messages):
        bare = {key: value for key, value in message.items() if key not in _OWN}
        if message.get("kind") == "tool_call":
            unanswered = f"call_{at}"
            yield {**bare, "content": None, "tool_calls": [_entry(unanswered, message["content"])]}
        elif message.get("role") == "tool" and "tool_call_id" not in message:
            yield {**bare, "tool_call_id": unanswered} if unanswered else {**bare, "role": "user"}
            unanswered = ""
        else:
            yield bare


def _entry(id: str, text: str) -> dict[str, Json]:
    call = json.loads(text)
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {"id": id, "type": "function", "function": {"name": call["name"], "arguments": arguments}}
