"""`/v1/responses`, the stateless part: asks and events as OpenAI's responses and their events in the documented order.

Knows OpenAI's responses API. Does not know the engine. Nothing is stored: what needs a stored response is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..asks.events import Event, Finished, Started
from ..error_table import document
from ..refusals import UnknownPath
from ..transport.event_stream import event_stream, sse
from ..transport.exchange import Exchange, exchange, finished_of
from ..wire.base import validated
from ..wire.headers import finished_headers
from ..wire.responses import NEUTRAL, ResponsesRequest, responses_ask
from .blocks import Block, Blocks, Step, blocks_of

_DEFAULTS: Final[dict[str, Any]] = {
    "previous_response_id": None, "truncation": "disabled", "presence_penalty": 0, "frequency_penalty": 0,
    "top_logprobs": 0, "max_tool_calls": None, "store": False, "background": False, "service_tier": "default",
}  # fmt: skip
"""Fields of a response that are always the same here."""


async def responses(request: Request) -> Response:
    """Answers `POST /v1/responses`."""
    served = await exchange(request)
    asked = validated(ResponsesRequest, served.body, NEUTRAL)
    served.check_model(asked.model)
    ask = responses_ask(asked, served.caller, served.service.settings, served.options)
    frame = Frame(served, asked)
    if ask.stream:
        events = served.noted(served.service.runner.events([ask]))
        return await event_stream(request, events, ResponseWriter(frame), served.service.settings)
    (finished,) = await finished_of(request, served, [ask])
    whole = frame.document([frame.item(block, "completed") for block in blocks_of(finished)], finished)
    return JSONResponse(whole, headers=finished_headers(finished))


async def stored(_: Request) -> Response:
    """Answers requests for a stored response: there are none."""
    raise UnknownPath("responses are not stored here; send the whole conversation as input", "store")


@dataclass(frozen=True, slots=True)
class Frame:
    """One response: what was asked, and the documents of its parts."""

    served: Exchange
    asked: ResponsesRequest

    @property
    def id(self) -> str:
        return self.served.caller.request

    def document(self, output: Sequence[Any], finished: Finished | None = None) -> dict[str, Any]:
        """Returns the response; in progress unless it has finished."""
        asked, cut = self.asked, finished is not None and finished.finish == "length"
        report = {} if finished is None else {"trimode": dict(finished.report)}
        return {
            **_DEFAULTS,
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.served.began,
            "completed_at": None if finished is None else int(time.time()),
            "status": "in_progress" if finished is None else "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "error": None,
            "model": self.served.service.name,
            "output": list(output),
            "usage": None if finished is None else _usage(finished),
            **_echoed(asked),
            **report,
        }

    def item(self, block: Block, status: str) -> dict[str, Any]:
        """Returns a block as an output item."""
        if block.kind == "call":
            return {
                "type": "function_call", "id": f"fc_{self.id}_{block.index}", "call_id": block.id, "name": block.name,
                "arguments": block.text, "status": status,
            }  # fmt: skip
        if block.kind == "thinking":
            content = [{"type": "reasoning_text", "text": block.text}] if block.text else []
            return {"type": "reasoning", "id": f"rs_{self.id}_{block.index}", "summary": [], "content": content}
        content = [self.part(block)] if block.text else []
        return {
            "type": "message", "id": f"msg_{self.id}_{block.index}", "role": "assistant", "content": content,
            "status": status,
        }  # fmt: skip

    @staticmethod
    def part(block: Block) -> dict[str, Any]:
        if block.kind == "thinking":
            return {"type": "reasoning_text", "text": block.text}
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _echoed(asked: ResponsesRequest) -> dict[str, Any]:
    """Returns the parameters that a response repeats."""
    tools = [one.model_dump() | {"strict": True} for one in asked.tools or ()]
    choice = asked.tool_choice
    text: Any = {"format": {"type": "text"}}
    if asked.text is not None and asked.text.format is not None:
        text = {"format": asked.text.format.model_dump(by_alias=True, exclude_none=True)}
    return {
        "instructions": asked.instructions,
        "tools": tools,
        "tool_choice": choice.model_dump() if choice is not None and not isinstance(choice, str) else asked.choice,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "text": text,
        "temperature": asked.temperature or 0,
        "top_p": asked.top_p or 1,
        "reasoning": {"effort": None if asked.reasoning is None else asked.reasoning.effort, "summary": None},
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "user": asked.user,
        "safety_identifier": asked.safety_identifier,
        "prompt_cache_key": asked.prompt_cache_key,
    }


def _usage(finished: Finished) -> dict[str, Any]:
    usage = finished.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output,
        "output_tokens_details": {
            "reasoning_tokens": usage.thinking,
            "accepted_prediction_tokens": usage.accepted,
            "rejected_prediction_tokens": usage.rejected,
        },
        "total_tokens": usage.prompt + usage.output,
    }


@dataclass(slots=True)
class ResponseWriter:
    """Writes the events of one streamed response."""

    frame: Frame
    _blocks: Blocks = field(default_factory=Blocks)
    _number: int = 0

    def write(self, event: Event) -> Iterable[bytes]:
        if isinstance(event, Started):
            yield self._event("response.created", response=self.frame.document([]))
            yield self._event("response.in_progress", response=self.frame.document([]))
        for step, block, text in self._blocks.feed(event):
            yield from self._step(step, block, text)
        if isinstance(event, Finished):
            whole = self.frame.document([self.frame.item(one, "completed") for one in self._blocks.done], event)
            yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: Exception) -> Iterable[bytes]:
        told = document(error)["error"]
        whole = self.frame.document([]) | {"status": "failed", "error": {key: told[key] for key in ("code", "message")}}
        yield self._event("response.failed", response=whole)

    def end(self) -> Iterable[bytes]:
        yield sse("[DONE]")

    def _step(self, step: Step, block: Block, text: str) -> Iterator[bytes]:
        at: dict[str, Any] = {"output_index": block.index}
        item = self.frame.item(block, "in_progress" if step == "open" else "completed")
        here = {**at, "item_id": item["id"]}
        if block.kind != "call":
            here["content_index"] = 0
        if step == "open":
            yield self._event("response.output_item.added", **at, item=item)
            if block.kind == "text":
                yield self._event("response.content_part.added", **here, part=self.frame.part(block))
        elif step == "add":
            yield self._event(f"response.{_NAMES[block.kind]}.delta", **here, delta=text, **_scores(block))
        else:
            yield from self._closed(block, at, here, item)

    def _closed(self, block: Block, at: Any, here: Any, item: Any) -> Iterator[bytes]:
        if block.kind == "call":
            yield self._event(f"response.{_NAMES['call']}.done", **here, name=block.name, arguments=block.text)
        else:
            yield self._event(f"response.{_NAMES[block.kind]}.done", **here, text=block.text, **_scores(block))
        if block.kind == "text":
            yield self._event("response.content_part.done", **here, part=self.frame.part(block))
        yield self._event("response.output_item.done", **at, item=item)

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number, **fields}, kind)


def _scores(block: Block) -> dict[str, Any]:
    """Returns the log-probabilities of a text's event: there are none, and the API wants them said."""
    return {"logprobs": []} if block.kind == "text" else {}


_NAMES: Final = {"text": "output_text", "thinking": "reasoning_text", "call": "function_call_arguments"}
"""Names of the events of each kind of block."""
