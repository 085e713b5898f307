"""`/v1/messages` and `/v1/messages/count_tokens`: asks and events as Anthropic's messages.

Knows Anthropic's messages API. Does not know the engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..asks.events import Event, Finished, Started, Usage
from ..error_table import document
from ..service import Service
from ..transport.event_stream import event_stream, sse
from ..transport.exchange import exchange, finished_of
from ..wire.base import validated
from ..wire.headers import finished_headers
from ..wire.messages import (
    NEUTRAL,
    Countable,
    MessagesRequest,
    countable_ask,
    messages_policy,
    messages_settings,
)
from .blocks import Block, Blocks, Step, blocks_of

PATH: Final = "/v1/messages"
_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ENDS: Final = ("stop_reason", "stop_sequence", "stop_details", "container")
_ABSENT: Final[dict[str, Any]] = {
    "cache_creation": None, "inference_geo": None, "server_tool_use": None, "service_tier": "standard",
}  # fmt: skip
"""Fields of a usage that are always the same here."""


async def messages(request: Request) -> Response:
    """Answers `POST` to PATH."""
    served = await exchange(request)
    asked = validated(MessagesRequest, served.body, NEUTRAL)
    served.check_model(asked.model)
    ask = replace(
        countable_ask(asked, served.caller, served.service.settings),
        settings=messages_settings(asked),
        policy=messages_policy(asked, served.options),
        stream=bool(asked.stream),
        fits=True,  # max_tokens is required, and clients send a number of their own
    )
    frame = {
        "id": f"msg_{served.caller.request}", "type": "message", "role": "assistant", "model": served.service.name,
    }  # fmt: skip
    if ask.stream:
        events = served.noted(served.service.runner.events([ask]))
        return await event_stream(request, events, MessageWriter(frame), served.service.settings)
    (finished,) = await finished_of(request, served, [ask])
    whole = {
        **frame, "content": [_block(one) for one in blocks_of(finished)], **dict.fromkeys(_ENDS),
        "stop_reason": _REASONS[finished.finish], "usage": _usage(finished.usage), "trimode": finished.report,
    }  # fmt: skip
    return JSONResponse(whole, headers=finished_headers(finished))


async def count_tokens(request: Request) -> Response:
    """Answers `POST /v1/messages/count_tokens`: {"input_tokens"}."""
    served = await exchange(request)
    asked = validated(Countable, served.body, NEUTRAL)
    served.check_model(asked.model)
    service: Service = request.app.state.service
    maker = service.runner.decoder.maker
    (call,) = maker.calls(countable_ask(asked, served.caller, service.settings))
    ids = await asyncio.to_thread(maker.engine.encode, call)
    return JSONResponse({"input_tokens": len(ids)})


def _block(block: Block) -> dict[str, Any]:
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    if block.kind == "call":
        made = json.loads(block.text or "{}")
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": made, "caller": {"type": "direct"}}
    return {"type": "text", "text": block.text, "citations": None}


def _usage(usage: Usage) -> dict[str, Any]:
    """Returns the counts; prompt tokens that were cached are told apart from those that were read."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.thinking},
        **_ABSENT,
    }


@dataclass(slots=True)
class MessageWriter:
    """Writes the events of one streamed message."""

    frame: Mapping[str, Any]
    _blocks: Blocks = field(default_factory=Blocks)

    def write(self, event: Event) -> Iterable[bytes]:
        if isinstance(event, Started):
            usage = _usage(Usage(prompt=event.prompt))
            begun = {**self.frame, "content": [], "usage": usage, **dict.fromkeys(_ENDS)}
            yield _event("message_start", message=begun)
        for step, block, text in self._blocks.feed(event):
            yield from self._step(step, block, text)
        if isinstance(event, Finished):
            delta = {**dict.fromkeys(_ENDS), "stop_reason": _REASONS[event.finish]}
            yield _event("message_delta", delta=delta, usage=_usage(event.usage), trimode=event.report)

    def failed(self, error: Exception) -> Iterable[bytes]:
        yield sse(document(error, PATH), "error")

    def end(self) -> Iterable[bytes]:
        yield _event("message_stop")

    @staticmethod
    def _step(step: Step, block: Block, text: str) -> Iterator[bytes]:
        if step == "open":
            yield _event("content_block_start", index=block.index, content_block=_block(block))
        elif step == "add":
            kind, key = _DELTAS[block.kind]
            yield _event("content_block_delta", index=block.index, delta={"type": kind, key: text})
        else:
            yield _event("content_block_stop", index=block.index)


_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def _event(name: str, **fields: Any) -> bytes:
    return sse({"type": name, **fields}, name)
