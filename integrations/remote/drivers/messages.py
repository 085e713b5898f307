"""Messages and tools as OpenAI's API has them.

Knows the conversation's normalized form. Does not know servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_SHOWN: Final = (
    "You can call these tools, described by JSON Schema:\n{tools}\n"
    'Answer with one JSON object {{"name": ..., "arguments": {{...}}}} that calls one of them, and nothing else.'
)
_BESIDE: Final = "These tools exist, described by JSON Schema:\n{tools}"


def api_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages with the arguments of their tool calls as JSON text."""
    return [_message(message) for message in messages]


def api_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns tools as functions."""
    return [{"type": "function", "function": dict(tool)} for tool in tools]


def with_tools(messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]], calls: bool) -> list[Any]:
    """Returns the messages with the tools in the system message; a new one if there is none. `calls`: whether the
    output is one call."""
    text = (_SHOWN if calls else _BESIDE).format(tools=json.dumps([dict(tool) for tool in tools]))
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in message.items() if value is not None}
    if calls := found.get("tool_calls"):
        found["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
    return found


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call_{number}",
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }
