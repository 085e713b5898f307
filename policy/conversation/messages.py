"""Chat messages as people have them, brought into one form: a role, a text, and the calls and ids beside it.

Knows the shapes of OpenAI's messages and which of their parts are text. Does not know chat templates: what a
checkpoint's template can show of these messages is `conversation.py`'s.
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
"""Keys of the one form. Others are kept for templates that have a place for them, and refused by the rest."""
_TEXTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Content parts that are text, and the key that holds it."""
_SILENT: Final = frozenset(("id", "type", "status"))
"""What answers of OpenAI's API say about themselves, which is nothing that was said."""

Message = Mapping[str, Any]


def checked_messages(messages: Any, where: str = "messages") -> tuple[dict[str, Any], ...]:
    """Raises RequestError for what is no conversation; the error names the message and the part of it."""
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
    """Raises RequestError where `text` is none; half a surrogate pair is no character."""
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


def checked_ids(ids: Any) -> tuple[int, ...]:
    """Token ids as Python's whole numbers. Raises RequestError for anything else."""
    try:
        if isinstance(ids, str | bytes | Mapping) or any(isinstance(token, bool) for token in ids):
            raise TypeError
        found = tuple(map(index, ids))
    except TypeError:
        raise RequestError(f"prompt_ids={shown(ids)}: expected token ids, a list of whole numbers") from None
    if not found:
        raise RequestError("prompt_ids is empty: pass at least one token")
    return found


def call_text(call: Mapping[str, Any]) -> str:
    """A call as models of this format write it."""
    function = call["function"]
    return canonical({"name": function["name"], "arguments": function["arguments"]})


def plain_text(message: Message) -> str:
    """All that a message says, calls included."""
    calls = [call_text(call) for call in message.get("tool_calls") or ()]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def _advice(given: Any) -> str:
    if isinstance(given, bytes | bytearray):
        return "; decode the bytes first"
    if isinstance(given, Sequence) and given and isinstance(given[0], Mapping):
        return "; a conversation is messages="
    return "; token ids are prompt_ids=" if isinstance(given, Sequence) else ""


def _message(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping) and callable(getattr(given, "model_dump", None)):
        given = given.model_dump()  # as the objects of OpenAI's client are
    if not isinstance(given, Mapping):
        raise RequestError(f"{where}={shown(given)}: expected a mapping with 'role' and 'content'")
    if wrong := [key for key in given if not isinstance(key, str)]:
        raise RequestError(f"{where}: {wrong[0]!r} is no key of a message; keys are strings")
    said = {key: value for key, value in given.items() if value is not None and key not in _SILENT}
    if not said.get("annotations", True):
        del said["annotations"]  # an answer without links
    role = said.get("role")
    if role not in ROLES:
        hint = "; a tool's answer has role 'tool'" if role == "function" else ""
        found = "no role" if role is None else f"role {shown(role)}"
        raise RequestError(f"{where} has {found}: expected one of {', '.join(ROLES)}{hint}")
    if "function_call" in said:
        said["tool_calls"] = [{"type": "function", "function": said.pop("function_call")}]
    calls = _calls(said.pop("tool_calls", []), role, where)
    content = _content(said.pop("content", None), said.pop("refusal", None), bool(calls), where)
    made = {**said, "role": role, "content": content, **({"tool_calls": calls} if calls else {})}
    _check_words(made, where)
    return made


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
    if kind not in _TEXTS:
        raise RequestError(f"{where}: a part of type {kind!r} cannot be shown to this model, which reads text alone")
    return checked_text(part.get(_TEXTS[kind]), f"{where}.{_TEXTS[kind]}")


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
    """As an object, which is what templates take; OpenAI has them as a JSON text."""
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


def _check_words(message: Message, where: str) -> None:
    """The small words beside a text."""
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
    """An answer that names a call stands behind that call, once."""
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
