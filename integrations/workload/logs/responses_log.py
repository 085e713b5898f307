"""OpenAI's responses as recorded calls: a request document and its response.

Knows OpenAI's responses API. Does not know files. Items that refer to what a server stored are refused, because the log
does not hold what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...server.wire.items import Conversation
from ..calls import Answer, RecordedCall, ToolUse, Usage
from ..refusals import Unreadable
from ..values import arguments, array, mapping, text, whole
from .chat_log import asked_in, model_in

Json = Any


def responses_call(request: Mapping[str, Json], response: Mapping[str, Json], **about: Any) -> RecordedCall:
    """Returns the call. `about`: fields that the line around both gives. Raises Unreadable."""
    form = mapping(request.get("text") or {}, "request.text").get("format")
    tools = tuple(mapping(one, "request.tools[]") for one in array(request.get("tools"), "request.tools"))
    if others := sorted({text(one.get("type"), "tools[].type") for one in tools} - {"function"}):
        raise Unreadable(f"request.tools: {others[0]!r} runs at the server; only functions can be asked for again")
    return RecordedCall(
        **asked_in(request, form, tools),
        model=model_in(request, response),
        messages=_messages(request),
        answer=_answer(array(response.get("output"), "response.output")),
        usage=_usage(response.get("usage")),
        **about,
    )


def _messages(request: Mapping[str, Json]) -> tuple[Mapping[str, Json], ...]:
    stored = next((key for key in ("previous_response_id", "conversation", "prompt") if request.get(key)), None)
    if stored is not None:
        raise Unreadable(f"request.{stored}: the conversation is at the server, not in the log")
    said, given = Conversation(), request.get("input")
    if request.get("instructions"):
        said.say("system", text(request["instructions"], "request.instructions"))
    if isinstance(given, str):
        said.say("user", given)
    else:
        for at, item in enumerate(array(given, "request.input")):
            _say(said, mapping(item, f"request.input[{at}]"))
    return tuple(said.messages)


def _say(said: Conversation, item: Mapping[str, Json]) -> None:
    match item.get("type", "message"):
        case "message":
            said.say(text(item.get("role"), "role"), item.get("content"))
        case "function_call":
            said.call(text(item.get("call_id"), "call_id"), text(item.get("name"), "name"), item.get("arguments") or "")
        case "function_call_output":
            said.answer(text(item.get("call_id"), "call_id"), item.get("output"))
        case "reasoning":
            said.leave_out("thinking of earlier turns")
        case other:
            raise Unreadable(f"request.input: items of type {other!r} cannot be asked again")


def _answer(items: Any) -> Answer | None:
    read = [mapping(item, "response.output[]") for item in items]
    texts = [part for item in read if item.get("type", "message") == "message" for part in _texts(item.get("content"))]
    calls = tuple(
        ToolUse(text(item.get("name"), "output[].name"), arguments(item.get("arguments")))
        for item in read
        if item.get("type") == "function_call"
    )
    return Answer("".join(texts), calls) if read else None


def _texts(content: Json) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for part in array(content, "output[].content"):
        held = mapping(part, "output[].content[]")
        yield text(held.get("text") or held.get("refusal"), "content[].text")


def _usage(given: Json) -> Usage:
    if given is None:
        return Usage()
    used = mapping(given, "usage")
    return Usage(
        input=whole(used.get("input_tokens"), "usage.input_tokens"),
        cached=whole(mapping(used.get("input_tokens_details") or {}, "usage").get("cached_tokens"), "cached_tokens"),
        output=whole(used.get("output_tokens"), "usage.output_tokens"),
    )
