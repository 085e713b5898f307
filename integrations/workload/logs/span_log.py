"""A span of OpenTelemetry's GenAI convention as a recorded call.

Knows `gen_ai.*` attributes and messages in parts. Does not know the files that spans are exported to. Spans that are no
inference, and attributes in older conventions, are left out by name; nothing is guessed from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from trimode.policy.json_schema import canonical
from trimode.policy.selection import StepKind, known_kind
from trimode.policy.telemetry import names

from ...server.wire.items import Conversation
from ..calls import Answer, RecordedCall, Times, ToolUse, Usage
from ..refusals import Unreadable
from ..values import arguments, array, mapping, number, text, unpacked, whole
from .spans import Span

Json = Any
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
SYSTEM: Final = "gen_ai.system_instructions"
CONVERSATION: Final = "gen_ai.conversation.id"
FIRST_CHUNK: Final = names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK
NOT_INFERENCE: Final = "spans that are no inference"
NO_CONTENT: Final = "inference spans without messages (content was not captured)"
_SETTINGS: Final = {
    names.GEN_AI_REQUEST_TEMPERATURE: "temperature", names.GEN_AI_REQUEST_TOP_P: "top_p",
    names.GEN_AI_REQUEST_TOP_K: "top_k", names.GEN_AI_REQUEST_SEED: "seed",
    names.GEN_AI_REQUEST_MAX_TOKENS: "max_tokens", names.GEN_AI_REQUEST_STOP_SEQUENCES: "stop",
}  # fmt: skip


def span_calls(span: Span, id: str) -> Iterator[RecordedCall | str]:
    """Yields the call of one span, or why it is left out. Raises Unreadable."""
    told = span.attributes
    if told.get(names.GEN_AI_OPERATION_NAME) not in names.INFERENCES:
        yield NOT_INFERENCE
        return
    if told.get(names.GEN_AI_INPUT_MESSAGES) is None and told.get(names.GEN_AI_OUTPUT_MESSAGES) is None:
        yield NO_CONTENT
        return
    answer, tools = _answer(told), _tools(told)
    kind = known_kind(str(told.get(names.STEP_KIND)))
    inferred: StepKind = "turn" if tools else "json" if told.get(names.GEN_AI_OUTPUT_TYPE) == "json" else "prose"
    yield RecordedCall(
        id=id,
        kind=inferred if kind is None or (kind == "tool_call" and not tools) else kind,
        step=text(told.get(names.STEP_NAME) or told.get(names.GEN_AI_AGENT_NAME), names.STEP_NAME),
        loop=text(told.get(names.SESSION_ID) or told.get(CONVERSATION), CONVERSATION) or span.trace,
        model=text(told.get(names.GEN_AI_RESPONSE_MODEL) or told.get(names.GEN_AI_REQUEST_MODEL), "model"),
        messages=_messages(told),
        tools=tools,
        settings=_settings(told),
        answer=answer,
        times=Times(first=number(told.get(FIRST_CHUNK), FIRST_CHUNK), last=span.seconds),
        usage=Usage(
            input=whole(told.get(names.GEN_AI_USAGE_INPUT_TOKENS), names.GEN_AI_USAGE_INPUT_TOKENS),
            cached=whole(told.get(names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS), "cached tokens"),
            output=whole(told.get(names.GEN_AI_USAGE_OUTPUT_TOKENS), names.GEN_AI_USAGE_OUTPUT_TOKENS),
        ),
    )


def _settings(told: Mapping[str, Json]) -> dict[str, Json]:
    return {ours: told[name] for name, ours in _SETTINGS.items() if told.get(name) is not None}


def _tools(told: Mapping[str, Json]) -> tuple[Mapping[str, Json], ...]:
    found = array(unpacked(told.get(TOOL_DEFINITIONS)), TOOL_DEFINITIONS)
    return tuple(mapping(one, f"{TOOL_DEFINITIONS}[]") for one in found)


def _messages(told: Mapping[str, Json]) -> tuple[Mapping[str, Json], ...]:
    said = Conversation()
    if system := _text(array(unpacked(told.get(SYSTEM)), SYSTEM)):
        said.say("system", system)
    for message in array(unpacked(told.get(names.GEN_AI_INPUT_MESSAGES)), names.GEN_AI_INPUT_MESSAGES):
        _say(said, mapping(message, "gen_ai.input.messages[]"))
    return tuple(said.messages)


def _say(said: Conversation, message: Mapping[str, Json]) -> None:
    role, parts = text(message.get("role"), "role"), array(message.get("parts"), "parts")
    if words := _text(parts):
        said.say("tool" if role == "tool" else role, words)
    for part in parts:
        held = mapping(part, "parts[]")
        if held.get("type") == "tool_call":
            said.call(text(held.get("id"), "id"), text(held.get("name"), "name"), _json(held.get("arguments")))
        elif held.get("type") == "tool_call_response":
            said.answer(text(held.get("id"), "id"), _plain(held.get("response", held.get("result"))))


def _answer(told: Mapping[str, Json]) -> Answer | None:
    found = array(unpacked(told.get(names.GEN_AI_OUTPUT_MESSAGES)), names.GEN_AI_OUTPUT_MESSAGES)
    if not found:
        return None
    parts = array(mapping(found[0], "gen_ai.output.messages[0]").get("parts"), "parts")
    calls = [mapping(part, "parts[]") for part in parts if mapping(part, "parts[]").get("type") == "tool_call"]
    uses = [ToolUse(text(one.get("name"), "name"), arguments(one.get("arguments"))) for one in calls]
    return Answer(_text(parts), tuple(uses))


def _text(parts: Any) -> str:
    """Returns the text of parts; thinking is none of it. Raises Unreadable for images and other data."""
    said = list[str]()
    for part in parts:
        held = mapping(part, "parts[]")
        match held.get("type"):
            case "text":
                said.append(text(held.get("content"), "parts[].content"))
            case "tool_call" | "tool_call_response" | "reasoning":
                pass
            case other:
                raise Unreadable(f"a part of type {other!r} cannot be asked again: only text and tool calls can")
    return "\n".join(said)


def _json(given: Json) -> Any:
    held = arguments(given)
    return held if isinstance(held, str | Mapping) else str(held)


def _plain(given: Json) -> str:
    return given if isinstance(given, str) else canonical(given)
