"""`/v1/chat/completions`: asks and events as OpenAI's documents, at once and as a stream.

Knows OpenAI's chat API. Does not know the engine. Order of a stream: for each choice the role, then pieces of thinking,
text and calls, then one finish reason; after all choices usage where it is asked for, and `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..asks.ask import Ask
from ..asks.events import CallDelta, Event, Finished, Logprob, Started, TextDelta, ThinkingDelta, Usage
from ..error_table import document
from ..transport.event_stream import event_stream, sse
from ..transport.exchange import Exchange, exchange, finished_of
from ..wire.base import StreamOptions, validated
from ..wire.chat import NEUTRAL, ChatRequest, chat_ask
from ..wire.headers import finished_headers


async def chat_completions(request: Request) -> Response:
    """Answers `POST /v1/chat/completions`."""
    served = await exchange(request)
    asked = validated(ChatRequest, served.body, NEUTRAL)
    served.check_model(asked.model)
    ask = chat_ask(asked, served.caller, served.service.settings, served.options)
    served.service.check_choices(ask.n)
    frame = Frame.of(served, "chat.completion")
    if ask.stream:
        writer = ChatWriter(frame, asked.stream_options or StreamOptions())
        events = served.noted(served.service.runner.events([ask]))
        return await event_stream(request, events, writer, served.service.settings)
    finished = await finished_of(request, served, [ask])
    return JSONResponse(completion(frame, ask, finished), headers=finished_headers(finished[0]))


@dataclass(frozen=True, slots=True)
class Frame:
    """The fields that all documents of one response share."""

    id: str
    object: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def of(cls, served: Exchange, kind: str) -> Frame:
        """Returns the frame of a response that begins now."""
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        service = served.service
        return cls(f"{prefix}-{served.caller.request}", kind, served.began, service.name, service.fingerprint)

    def document(self, **fields: Any) -> dict[str, Any]:
        return {
            "id": self.id, "object": self.object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, **fields,
        }  # fmt: skip

    def chunk(self, **fields: Any) -> dict[str, Any]:
        """A document of a stream."""
        return {**self.document(**fields), "object": f"{self.object.removesuffix('.chunk')}.chunk"}


def completion(frame: Frame, ask: Ask, finished: Sequence[Finished]) -> dict[str, Any]:
    """Returns the whole response."""
    reports = [one.report for one in finished]
    return frame.document(
        choices=[_choice(one) for one in finished],
        usage=usage_document(reduce(add, (one.usage for one in finished))),
        trimode=reports[0] if ask.n == 1 else {**reports[0], "choices": reports},
    )


def _choice(one: Finished) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": one.content, "refusal": None, "annotations": []}
    if one.thinking is not None:
        message["reasoning_content"] = one.thinking
    if one.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in one.calls
        ]
    return {
        "index": one.choice, "message": message, "logprobs": logprobs_document(one.logprobs),
        "finish_reason": one.finish,
    }  # fmt: skip


def usage_document(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.thinking,
            "audio_tokens": 0,
            "accepted_prediction_tokens": usage.accepted,
            "rejected_prediction_tokens": usage.rejected,
        },
    }


def logprobs_document(logprobs: Sequence[Logprob] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    tokens = [
        {**_scored(one.token, one.logprob), "top_logprobs": [_scored(*other) for other in one.top]} for one in logprobs
    ]
    return {"content": tokens, "refusal": None}


def _scored(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


@dataclass(slots=True)
class ChatWriter:
    """Writes the chunks of one streamed response."""

    frame: Frame
    options: StreamOptions
    _usages: list[Usage] = field(default_factory=list)

    def write(self, event: Event) -> Iterable[bytes]:
        match event:
            case Started():
                yield self._chunk(event.choice, {"role": "assistant", "content": ""})
            case TextDelta():
                yield self._chunk(event.choice, {"content": event.text})
            case ThinkingDelta():
                yield self._chunk(event.choice, {"reasoning_content": event.text})
            case CallDelta():
                yield self._chunk(event.choice, {"tool_calls": [_call_delta(event)]})
            case Finished():
                self._usages.append(event.usage)
                yield self._chunk(
                    event.choice, {}, event.finish, logprobs_document(event.logprobs), trimode=event.report
                )

    def failed(self, error: Exception) -> Iterable[bytes]:
        yield sse(document(error))

    def end(self) -> Iterable[bytes]:
        if self.options.include_usage:
            usage = usage_document(reduce(add, self._usages))
            yield sse(self.frame.chunk(choices=[], usage=usage))
        yield sse("[DONE]")

    def _chunk(
        self,
        choice: int,
        delta: Mapping[str, Any],
        finish: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        if self.options.include_usage:
            more["usage"] = None
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sse(self.frame.chunk(choices=[entry], **more))


def _call_delta(event: CallDelta) -> dict[str, Any]:
    first = {} if event.id is None else {"id": event.id, "type": "function"}
    name = {} if event.name is None else {"name": event.name}
    return {"index": event.index, **first, "function": {**name, "arguments": event.arguments}}
