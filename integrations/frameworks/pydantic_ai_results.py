"""Results, streams and errors of trimode as pydantic-ai has them.

Knows pydantic-ai's responses, stream events, usage and errors. Does not know messages, settings or engines.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pydantic_ai import exceptions
from pydantic_ai.messages import (
    FinishReason,
    ModelResponse,
    ModelResponseStreamEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_ai.usage import RequestUsage

from trimode.policy.calls import Result

from .core.causes import Cause, translated
from .core.facts import PROVIDER, Ending, ending_of, facts_of
from .core.pieces import Piece

ENDINGS: Final[Mapping[Ending, FinishReason]] = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}
_ERRORS: Final[Mapping[Cause, type[exceptions.ModelAPIError]]] = {
    "too_long": exceptions.ModelContextWindowExceededError,
    "overloaded": exceptions.ModelOverloadedError,
    "budget": exceptions.ModelQuotaExceededError,
    "timeout": exceptions.ModelTimeoutError,
    "invalid": exceptions.ModelRequestRejectedError,
}
"""pydantic-ai's errors by cause; "output" is its UnexpectedModelBehavior, all others its ModelAPIError."""


def error_of(model: str) -> Callable[[Cause, str], Exception]:
    """Returns what makes a failure of this model an error of pydantic-ai."""

    def made(cause: Cause, message: str) -> Exception:
        if cause == "output":
            return exceptions.UnexpectedModelBehavior(message)
        return _ERRORS.get(cause, exceptions.ModelAPIError)(model, message)

    return made


def response_of(result: Result, model: str) -> ModelResponse:
    """Returns the turn; the facts are in its `provider_details`."""
    thinking = [ThinkingPart(result.thinking)] if result.thinking else []
    text = [TextPart(result.content)] if result.content else []
    calls = [ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in result.calls]
    return ModelResponse(
        parts=[*thinking, *text, *calls], usage=usage_of(result), model_name=model,
        provider_name=PROVIDER, provider_response_id=result.audit_id, provider_details=facts_of(result),
        finish_reason=ENDINGS[ending_of(result)],
    )  # fmt: skip


@dataclass(kw_only=True)
class TrimodeStreamedResponse(StreamedResponse):
    """The stream of one turn."""

    _name: str
    _pieces: AsyncGenerator[Piece]
    _timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    _closed: bool = False

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        with translated(error_of(self._name)):
            while not self._closed and (piece := await anext(self._pieces, None)) is not None:
                for event in self._events(piece):
                    yield event

    def _events(self, piece: Piece) -> Iterator[ModelResponseStreamEvent]:
        if piece.thinking:
            yield from self._parts_manager.handle_thinking_delta(vendor_part_id="thinking", content=piece.thinking)
        if piece.text:
            yield from self._parts_manager.handle_text_delta(vendor_part_id="text", content=piece.text)
        if (call := piece.call) is not None:
            yield from self._parts_manager.handle_tool_call_delta_events(
                vendor_part_id=call.id, tool_name=call.name, args=call.arguments or None, tool_call_id=call.id
            )
        if (result := piece.result) is not None:
            self._usage, self.provider_details = usage_of(result), facts_of(result)
            self.finish_reason, self.provider_response_id = ENDINGS[ending_of(result)], result.audit_id

    async def close_stream(self) -> None:
        """Cancels the decoding of what has not been read. A pending read ends first, within one pass."""
        self._closed = True
        if not getattr(self._pieces, "ag_running", False):
            await self._pieces.aclose()

    @property
    def model_name(self) -> str:
        return self._name

    @property
    def provider_name(self) -> str:
        return PROVIDER

    @property
    def provider_url(self) -> None:
        """None: the model runs in this process."""

    @property
    def timestamp(self) -> datetime:
        return self._timestamp


def usage_of(result: Result) -> RequestUsage:
    """Returns the tokens; `details` has the drafts, which are no output of their own."""
    stats = result.stats
    details = {"drafted": stats.drafted, "draft_accepted": stats.accepted, "draft_rejected": stats.rejected,
               "forward_passes": stats.forward_passes}  # fmt: skip
    return RequestUsage(
        input_tokens=stats.prompt_tokens, cache_read_tokens=stats.cached_tokens, output_tokens=stats.output_tokens,
        details=details,
    )  # fmt: skip
