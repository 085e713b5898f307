"""Turns, pieces, calls and tools as plain values of OpenAI's chat completions, which several SDKs speak or are made of.

Knows results and pieces. Does not know frameworks, which make objects of their own of these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimode.policy.calls import Result
from trimode.policy.json_schema import canonical

from .pieces import Piece


def tool_values(name: str, description: str | None, parameters: Any) -> dict[str, Any]:
    """Returns a function tool; without `parameters` it takes no arguments."""
    schema = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


def call_values(id: str, name: str, arguments: str) -> dict[str, Any]:
    """Returns a call in an assistant's message; `arguments`: JSON text."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said_values(text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns an assistant's message of the past."""
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def message_values(result: Result) -> dict[str, Any]:
    """Returns the turn as an assistant's message, without thinking."""
    calls = [call_values(call.id, call.name, canonical(call.arguments)) for call in result.calls]
    return {"role": "assistant", "content": result.content, "tool_calls": calls or None}


def delta_values(piece: Piece) -> dict[str, Any]:
    """Returns what a piece adds to a streamed message; thinking as `reasoning_content`, which several servers use."""
    delta: dict[str, Any] = {"content": piece.text or None}
    if piece.thinking:
        delta["reasoning_content"] = piece.thinking
    if (call := piece.call) is not None:
        values = call_values(call.id, call.name or "", call.arguments)
        opened = values if call.name is not None else {**values, "id": None, "function": {"arguments": call.arguments}}
        delta["tool_calls"] = [{"index": call.index, **opened}]
    return delta


def usage_values(result: Result) -> Mapping[str, Any]:
    """Returns the tokens, with those of drafts that were accepted and rejected."""
    stats = result.stats
    drafts = {"accepted_prediction_tokens": stats.accepted, "rejected_prediction_tokens": stats.rejected}
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.output_tokens,
        "total_tokens": stats.prompt_tokens + stats.output_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        "completion_tokens_details": {**drafts, "reasoning_tokens": 0},
    }
