"""`/v1/completions`: asks and events as OpenAI's documents of plain text, at once and as a stream.

Knows OpenAI's completions API. Does not know the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..asks.ask import Ask
from ..asks.events import CallDelta, Event, Finished, Logprob, Started, TextDelta, ThinkingDelta, Usage
from ..error_table import document
from ..transport.event_stream import event_stream, sse
from ..transport.exchange import exchange, finished_of
from ..wire.base import StreamOptions, validated
from ..wire.completions import NEUTRAL, CompletionRequest, completion_asks
from ..wire.headers import finished_headers
from .chat import Frame, usage_document

PATH: Final = "/v1/completions"


async def completions(request: Request) -> Response:
    """Answers `POST` to PATH."""
    served = await exchange(request)
    asked = validated(CompletionRequest, served.body, NEUTRAL)
    served.check_model(asked.model)
    asks = completion_asks(asked, served.caller, served.options)
    served.service.check_choices(sum(ask.n for ask in asks))
    frame = Frame.of(served, "text_completion")
    if asks[0].stream:
        writer = CompletionWriter(frame, asked.stream_options or StreamOptions(), asks)
        events = served.noted(served.service.runner.events(asks))
        return await event_stream(request, events, writer, served.service.settings)
    finished = await finished_of(request, served, asks)
    return JSONResponse(completion(frame, asks, finished), headers=finished_headers(finished[0]))


def completion(frame: Frame, asks: Sequence[Ask], finished: Sequence[Finished]) -> dict[str, Any]:
    """Returns the whole response."""
    reports = [one.report for one in finished]
    return frame.document(
        choices=[_choice(one.choice, one.content or "", one.finish, one.logprobs) for one in finished],
        usage=usage_document(_total(asks, {one.choice: one.usage for one in finished})),
        trimode=reports[0] if len(reports) == 1 else {**reports[0], "choices": reports},
    )


def _choice(index: int, text: str, finish: str | None, logprobs: Sequence[Logprob] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": _logprobs(logprobs), "finish_reason": finish}


def _logprobs(logprobs: Sequence[Logprob] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    ends = [0]
    for one in logprobs:
        ends.append(ends[-1] + len(one.token))
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [dict(one.top) for one in logprobs],
        "text_offset": ends[:-1],
    }


def _total(asks: Sequence[Ask], usages: dict[int, Usage]) -> Usage:
    """Returns the usage of all choices; each prompt counts once."""
    total, first = Usage(), 0
    for ask in asks:
        own = reduce(add, (usages[index] for index in range(first, first + ask.n)))
        total = Usage(
            prompt=total.prompt + own.prompt,
            cached=total.cached + own.cached,
            output=total.output + own.output,
            thinking=total.thinking + own.thinking,
            accepted=total.accepted + own.accepted,
            rejected=total.rejected + own.rejected,
        )
        first += ask.n
    return total


@dataclass(slots=True)
class CompletionWriter:
    """Writes the chunks of one streamed response."""

    frame: Frame
    options: StreamOptions
    asks: Sequence[Ask]
    _usages: dict[int, Usage] = field(default_factory=dict)

    def write(self, event: Event) -> Iterable[bytes]:
        match event:
            case TextDelta():
                yield self._chunk(_choice(event.choice, event.text, None, None))
            case Finished():
                self._usages[event.choice] = event.usage
                yield self._chunk(_choice(event.choice, "", event.finish, event.logprobs), trimode=event.report)
            case Started() | ThinkingDelta() | CallDelta():
                pass  # this API has no place for them

    def failed(self, error: Exception) -> Iterable[bytes]:
        yield sse(document(error, PATH))

    def end(self) -> Iterable[bytes]:
        if self.options.include_usage:
            yield sse(self.frame.document(choices=[], usage=usage_document(_total(self.asks, self._usages))))
        yield sse("[DONE]")

    def _chunk(self, choice: dict[str, Any], **more: Any) -> bytes:
        if self.options.include_usage:
            more["usage"] = None
        return sse(self.frame.document(choices=[choice], **more))
