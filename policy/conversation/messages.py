"""Validates chat messages and normalizes them to one form: a role, a text, tool calls and ids.

Knows the variants of OpenAI's messages and which of their parts are text. Does not know chat templates: `chat.py`
adapts these messages to a checkpoint's template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, Final

from trimode.engine.errors import RequestError

from ..errors import shown
from ..json_schema import canonical
from ..selection import STEP_KINDS

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
OWN: Final = frozenset(("role", "content", "tool_calls", "tool_call_id", "name", "kind", "schema"))
"""Keys of the normalized form. Others are kept, because a template may render them; `chat.py` refuses the rest."""
_TEXT_PARTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of content parts that are text, with the key of the text."""
_METADATA: Final = frozenset(("id", "type", "status"))
"""Keys of OpenAI's responses that are not part of the conversation; they are dropped."""

Message = Mapping[str, Any]


def checked_messages(messages: Any, where: str = "messages") -> tuple[dict[str, Any], ...]:
    """Returns the messages in normalized form. Raises RequestError, which names the message and the part of it."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise RequestError(
            f"{where}={shown(messages)}: expected a list of messages, such as [{{'role': 'user', 'content': 'Hello'}}]"
            + ("; a text alone is a prompt=" if isinstance(messages, str) else "")
        )
    found = tuple(_message(message, f"{where}[{at}]") for at, message in enumerate(messages))
    if not found:
        raise RequestError(f"{where} is empty: pass at least one message")
    _check_answers(found, where)
    return found


def checked_text(text: Any, name: str) -> str:
    """Returns `text`. Raises RequestError if it is not a string, or has an unpaired surrogate (invalid UTF-8)."""
    if not isinstance(text, str):
        raise RequestError(f"{name}={shown(text)}: expected a string{_advice(text)}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} holds half a surrogate pair, {text[error.start]!a} at character {error.start}, which is no "
            "character; decode the text from its bytes again, or replace it"
        ) from None
    return text


def checked_ids(ids: Any, name: str = "prompt_ids") -> tuple[int, ...]:
    """Returns token ids as a tuple of Python ints. Raises RequestError for anything else."""
    try:
        if isinstance(ids, str | bytes | Mapping) or any(isinstance(token, bool) for token in ids):
            raise TypeError
        found = tuple(map(index, ids))
    except TypeError:
        raise RequestError(f"{name}={shown(ids)}: expected token ids, a list of whole numbers") from None
    if not found:
        raise RequestError(f"{name} is empty: pass at least one token")
    return found


def call_text(call: Mapping[str, Any]) -> str:
    """Returns a tool call as the JSON text that a model writes: {"name": ..., "arguments": ...}."""
    function = call["function"]
    return canonical({"name": function["name"], "arguments": function["arguments"]})


def plain_text(message: Message) -> str:
    """Returns a message's text, followed by its tool calls, one a line."""
    calls = [call_text(call) for call in message.get("tool_calls") or ()]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def _advice(given: Any) -> str:
    """Returns the end of an error message: which argument takes a value of this type."""
    if isinstance(given, bytes | bytearray):
        return "; decode the bytes first"
    if isinstance(given, Sequence) and given and isinstance(given[0], Mapping):
        return "; a conversation is messages="
    return "; token ids are prompt_ids=" if isinstance(given, Sequence) else ""


def _message(given: Any, where: str) -> dict[str, Any]:
    """Returns one message in normalized form. `where`: its name in errors."""
    if not isinstance(given, Mapping) and callable(getattr(given, "model_dump", None)):
        given = given.model_dump()  # objects of OpenAI's client are pydantic models
    if not isinstance(given, Mapping):
        raise RequestError(f"{where}={shown(given)}: expected a mapping with 'role' and 'content'")
    if wrong := [key for key in given if not isinstance(key, str)]:
        raise RequestError(f"{where}: {wrong[0]!r} is no key of a message; keys are strings")
    fields = {key: value for key, value in given.items() if value is not None and key not in _METADATA}
    if not fields.get("annotations", True):
        del fields["annotations"]  # an empty list: the answer has no links
    role = fields.get("role")
    if role not in ROLES:
        hint = "; a tool's answer has role 'tool'" if role == "function" else ""
        found = "no role" if role is None else f"role {shown(role)}"
        raise RequestError(f"{where} has {found}: expected one of {', '.join(ROLES)}{hint}")
    if "function_call" in fields:
        fields["tool_calls"] = [{"type": "function", "function": fields.pop("function_call")}]
    calls = _calls(fields.pop("tool_calls", []), role, where)
    content = _content(fields.pop("content", None), fields.pop("refusal", None), bool(calls), where)
    message = {**fields, "role": role, "content": content, **({"tool_calls": calls} if calls else {})}
    _check_fields(message, where)
    return message


def _content(content: Any, refusal: Any, has_calls: bool, where: str) -> str:
    if refusal is not None:
        if content not in (None, "", []):
            raise RequestError(f"{where} has content and a refusal; a message says one of them")
        content = refusal
    if content is None:
        if has_calls:
            return ""
        raise RequestError(f"{where} has no content: expected a string, or null beside tool_calls")
    if isinstance(content, list | tuple):
        return "\n".join(_part(part, f"{where}.content[{at}]") for at, part in enumerate(content))
    return checked_text(content, f"{where}.content")


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise RequestError(f"{where}={shown(part)}: expected a part such as {{'type': 'text', 'text': 'Hello'}}")
    if kind not in _TEXT_PARTS:
        raise RequestError(f"{where}: a part of type {kind!r} cannot be shown to this model, which reads text alone")
    return checked_text(part.get(_TEXT_PARTS[kind]), f"{where}.{_TEXT_PARTS[kind]}")


def _calls(calls: Any, role: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise RequestError(f"{where}.tool_calls={shown(calls)}: expected a list of calls")
    if calls and role != "assistant":
        raise RequestError(f"{where} has tool_calls and role {role!r}: only an assistant calls tools")
    return [_call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise RequestError(f"{where}={shown(call)}: expected {{'id': ..., 'type': 'function', 'function': ...}}")
    kind, function = call.get("type") or "function", call.get("function")
    if kind != "function":
        raise RequestError(f"{where}: a call of type {shown(kind)} cannot be shown to this model; expected 'function'")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise RequestError(f"{where}.function={shown(function)}: expected a name and arguments")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    found = call.get("id")
    named = {} if found is None else {"id": checked_text(found, f"{where}.id")}
    text = checked_text(name, f"{where}.function.name")
    return {**named, "type": "function", "function": {"name": text, "arguments": arguments}}


def _arguments(given: Any, where: str) -> dict[str, Any]:
    """Returns a call's arguments as a dict, because templates expect one; OpenAI's API has them as JSON text."""
    found = given
    if given is None or (isinstance(given, str) and not given.strip()):
        return {}
    try:
        text = given if isinstance(given, str) else json.dumps(given)
        found = json.loads(text, parse_constant=_no_constant)
    except (TypeError, ValueError, RecursionError):
        raise RequestError(f"{where}={shown(given)}: expected a JSON object, or its text") from None
    if not isinstance(found, dict):
        raise RequestError(f"{where}={shown(given)}: expected a JSON object, or its text")
    checked_text(canonical(found), where)
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_fields(message: Message, where: str) -> None:
    """Raises RequestError for an invalid tool_call_id, name, kind or schema."""
    if (found := message.get("tool_call_id")) is not None:
        checked_text(found, f"{where}.tool_call_id")
        if message["role"] != "tool":
            raise RequestError(f"{where} has a tool_call_id and role {message['role']!r}: only a tool answers a call")
    if (found := message.get("name")) is not None:
        checked_text(found, f"{where}.name")
    if (found := message.get("kind")) is not None and found not in STEP_KINDS:
        raise RequestError(f"{where}: kind {shown(found)} is none; known: {', '.join(STEP_KINDS)}")
    if (found := message.get("schema")) is not None and not isinstance(found, Mapping | bool):
        raise RequestError(f"{where}.schema={shown(found)}: expected a JSON Schema")


def _check_answers(messages: Sequence[Message], where: str) -> None:
    """Raises RequestError unless each tool answer with an id follows the call of that id and is its only answer."""
    open_ids: dict[str, str] = {}
    for at, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            if "id" in call:
                open_ids[call["id"]] = call["function"]["name"]
        found = message.get("tool_call_id")
        if found is None:
            continue
        if found not in open_ids:
            raise RequestError(
                f"{where}[{at}]: tool_call_id={found!r} names no call before it that is still without an answer; "
                "leave tool_call_id out, or put the assistant's message with its tool_calls before"
            )
        called = open_ids.pop(found)
        if message.get("name") not in (None, called):
            raise RequestError(f"{where}[{at}]: name={message['name']!r}, but call {found!r} is of {called!r}")
