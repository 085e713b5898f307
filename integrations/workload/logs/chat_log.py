"""OpenAI's chat completions as recorded calls: a request document and its response.

Knows OpenAI's chat API. Does not know files. A response that is an error is left out, by its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..calls import Answer, RecordedCall, ToolUse, Usage
from ..refusals import Unreadable
from ..values import arguments, array, mapping, number, text, whole

Json = Any
SETTINGS: Final = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "seed": "seed", "stop": "stop",
    "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens",
}  # fmt: skip
"""Parameters of requests, and the settings that they are here."""
SILENT: Final = frozenset(
    (
        "model", "messages", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "response_format",
        "text", "stream", "stream_options", "metadata", "user", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "include",
    )
)  # fmt: skip
"""Parameters that are read otherwise, or that change no output."""


def chat_call(request: Mapping[str, Json], response: Mapping[str, Json], **about: Any) -> RecordedCall:
    """Returns the call. `about`: fields that the line around both gives. Raises Unreadable."""
    tools = tuple(array(request.get("tools"), "request.tools"))
    return RecordedCall(
        **asked_in(request, request.get("response_format"), tools),
        model=model_in(request, response),
        messages=_messages(request),
        answer=_answer(response),
        usage=_usage(response.get("usage")),
        **about,
    )


def asked_in(request: Mapping[str, Json], form: Json, tools: Sequence[Json]) -> dict[str, Any]:
    """Returns what both APIs ask for in the same words: kind, tools and their choice, schema, settings.

    `form`: a `response_format` or `text.format`. Raises Unreadable.
    """
    constrained = isinstance(form, Mapping) and form.get("type") in ("json_schema", "json_object")
    calls_tools = bool(tools) and request.get("tool_choice") != "none"
    return {
        "kind": "turn" if calls_tools else "json" if constrained else "prose",
        "tools": tuple(tools),
        "choice": request.get("tool_choice") if tools else None,
        "parallel": request.get("parallel_tool_calls") if tools else None,
        "schema": schema_in(form),
        "settings": settings_in(request),
        "ignored": ignored_in(request),
    }


def model_in(request: Mapping[str, Json], response: Mapping[str, Json]) -> str:
    """Returns the model that answered, else the one that was asked for."""
    return text(response.get("model") or request.get("model"), "model")


def _messages(request: Mapping[str, Json]) -> tuple[Mapping[str, Json], ...]:
    found = array(request.get("messages"), "request.messages")
    return tuple(mapping(one, f"request.messages[{at}]") for at, one in enumerate(found))


def schema_in(form: Json) -> Json:
    """Returns the JSON Schema of a `response_format` or `text.format`, None for none."""
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return None
    inner = mapping(form.get("json_schema", form), "response_format.json_schema")
    return dict(mapping(inner.get("schema"), "response_format.schema"))


def settings_in(request: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the settings of a request, by the names of `Settings`."""
    found: dict[str, Json] = {}
    for name, ours in SETTINGS.items():
        if request.get(name) is None:
            continue
        counted = ours in ("seed", "max_tokens", "top_k")
        found[ours] = (
            request[name] if ours == "stop" else whole(request[name], name) if counted else number(request[name], name)
        )
    return found


def ignored_in(request: Mapping[str, Json]) -> tuple[str, ...]:
    """Returns the names of parameters that are not asked for again, without those that are neutral."""
    neutral: tuple[Json, ...] = (None, 0, False, [], {}, "auto", "none", "disabled")
    rest = {key: value for key, value in request.items() if key not in SILENT and key not in SETTINGS}
    return tuple(sorted(key for key, value in rest.items() if value not in neutral and (key, value) != ("n", 1)))


def _answer(response: Mapping[str, Json]) -> Answer | None:
    choices = array(response.get("choices"), "response.choices")
    if not choices:
        return None
    choice = mapping(choices[0], "response.choices[0]")
    if "delta" in choice:
        raise Unreadable("response: a chunk of a stream; log the whole answer, such as the client's final completion")
    message = mapping(choice.get("message"), "response.choices[0].message")
    return Answer(
        text=text(message.get("content") or message.get("refusal"), "message.content"),
        calls=tuple(_use(one) for one in array(message.get("tool_calls"), "message.tool_calls")),
    )


def _use(call: Json) -> ToolUse:
    function = mapping(mapping(call, "tool_calls[]").get("function"), "tool_calls[].function")
    return ToolUse(text(function.get("name"), "function.name"), arguments(function.get("arguments")))


def _usage(given: Json) -> Usage:
    if given is None:
        return Usage()
    used = mapping(given, "usage")
    details = mapping(used.get("prompt_tokens_details") or {}, "usage.prompt_tokens_details")
    return Usage(
        input=whole(used.get("prompt_tokens"), "usage.prompt_tokens"),
        cached=whole(details.get("cached_tokens"), "usage.prompt_tokens_details.cached_tokens"),
        output=whole(used.get("completion_tokens"), "usage.completion_tokens"),
    )
