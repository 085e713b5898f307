"""Turns as messages, chunks and usage of OpenAI's chat completions, which the Agents SDK makes items and events of.

Knows results and pieces. Does not know models, settings or spans.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.usage import Usage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
from openai.types.completion_usage import CompletionUsage
from openai.types.responses import Response

from trimode.policy.calls import Result

from .core.completions import delta_values, message_values, usage_values
from .core.facts import ending_of
from .core.pieces import Piece


def usage_of(result: Result) -> CompletionUsage:
    """Returns the tokens, with those of drafts that were accepted and rejected."""
    return CompletionUsage.model_validate(usage_values(result))


def counted(result: Result) -> Usage:
    """Returns the tokens as a run adds them up."""
    usage = usage_of(result)
    read: Any = usage.prompt_tokens_details
    written: Any = usage.completion_tokens_details
    return Usage(
        requests=1, input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens, input_tokens_details=read,
        output_tokens_details=written,
    )  # fmt: skip


def message_of(result: Result) -> ChatCompletionMessage:
    """Returns the turn as a message of chat completions."""
    return ChatCompletionMessage.model_validate(message_values(result))


async def chunks_of(
    pieces: AsyncGenerator[Piece], model: str, keep: Callable[[Result], None]
) -> AsyncIterator[ChatCompletionChunk]:
    """Yields the pieces as chunks of chat completions, which the SDK's own handler makes events of.

    `keep` is called with the result, before the last chunk.
    """
    async for piece in pieces:
        if piece.result is not None:
            keep(piece.result)
        ending = None if piece.result is None else ending_of(piece.result)
        usage = None if piece.result is None else usage_of(piece.result).model_dump()
        yield ChatCompletionChunk.model_validate({
            "id": FAKE_RESPONSES_ID, "object": "chat.completion.chunk", "created": 0, "model": model, "usage": usage,
            "choices": [{"index": 0, "delta": delta_values(piece), "finish_reason": ending}],
        })  # fmt: skip


def add_facts(response: Response, facts: Mapping[str, Any]) -> None:
    """Adds what is known of the call to the items of a streamed response, where those of others have it."""
    for item in response.output:
        known: Any = getattr(item, "provider_data", None) or {}
        setattr(item, "provider_data", {**known, "trimode": facts})  # noqa: B010 - the field is an extra one
