"""Messages and tools of pydantic-ai in OpenAI's form, which our engine takes.

Knows the parts of pydantic-ai's messages. Does not know models or settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from .core.completions import call_values, said_values, tool_values


def tool_of(tool: ToolDefinition) -> dict[str, Any]:
    """Returns a tool in OpenAI's form."""
    return tool_values(tool.name, tool.description, tool.parameters_json_schema)


def system_messages(parts: Sequence[InstructionPart] | None) -> Iterator[dict[str, Any]]:
    """Yields the instructions of an agent as system messages."""
    for part in parts or ():
        yield {"role": "system", "content": part.content}


def chat_messages(message: ModelMessage) -> Iterator[dict[str, Any]]:
    """Yields a message of pydantic-ai in OpenAI's form. Thinking is not shown again, as chat templates leave it out."""
    if isinstance(message, ModelRequest):
        yield from (_requested(part) for part in message.parts)
        return
    text = "\n\n".join(part.content for part in message.parts if isinstance(part, TextPart))
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    yield said_values(text, [call_values(one.tool_call_id, one.tool_name, one.args_as_json_str()) for one in calls])


def _requested(part: Any) -> dict[str, Any]:
    if isinstance(part, SystemPromptPart):
        return {"role": "system", "content": part.content}
    if isinstance(part, ToolReturnPart):
        return {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response_str()}
    if isinstance(part, UserPromptPart):
        content = [part.content] if isinstance(part.content, str) else part.content
        texts = [one if isinstance(one, str) else getattr(one, "content", None) for one in content]
        if all(isinstance(text, str) for text in texts):
            return {"role": "user", "content": "\n".join(map(str, texts))}
    raise exceptions.UserError(
        f"a {type(part).__name__} with {part!r:.200} cannot be shown to this model, which reads text"
    )
