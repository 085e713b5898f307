"""Conversations in the shapes of OpenAI's responses and Anthropic's messages, as messages of the chat API.

Knows the three shapes. Does not know the engine. Thinking of earlier turns is left out, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

THOUGHTS: Final = "thinking of earlier turns is not shown to the model"

FAILED: Final = "is_error of tool results is not shown to the model; say it in their content"


class Conversation:
    """Messages as they are collected; calls of one turn become one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def say(self, role: str, content: Any) -> None:
        """Adds a message of text or of text parts."""
        self.messages.append({"role": role, "content": content})

    def call(self, id: str, name: str, arguments: str | Mapping[str, Any]) -> None:
        """Adds a tool call to the assistant's message before it, or as a message of its own."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        made = {"id": id, "type": "function", "function": {"name": name, "arguments": text}}
        self.messages[-1].setdefault("tool_calls", []).append(made)

    def answer(self, id: str, content: Any) -> None:
        """Adds a tool's answer to the call of that id."""
        self.messages.append({"role": "tool", "tool_call_id": id, "content": content})

    def leave_out(self, note: str) -> None:
        """Notes what the model is not shown, once."""
        if note not in self.notes:
            self.notes.append(note)


def text_parts(parts: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns parts of content as documents; the engine refuses those that are no text, by their type."""
    return [part.model_dump(exclude_none=True) for part in parts]
