"""Adapts validated messages to one checkpoint's chat template: roles, tool calls, tool answers and tool definitions.

Knows which parts the template renders, and the text form of the parts that it does not; nothing is dropped without an
error or a note. Does not know the input formats of messages, or how many tokens fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.engine.models.template import ChatTemplate
from trimode.engine.models.tokenizer import Tokenizer

from ..json_schema import canonical
from ..schema import CallFormat
from .messages import OWN, call_text

TOOLS_HEAD: Final = (
    'You can call tools. To call one, answer with {"name": ..., "arguments": {...}} and nothing else. The tools, one a '
    "line, with the JSON Schema of their arguments:"
)
"""First line of the default block of tools, for templates that do not render tools."""
TOOLS_IN_TEXT: Final = "You can call tools, in the middle of what you say or instead. To call one, write:"
"""First line of that block where the model may talk and call."""
_TOOLS_LISTED: Final = "The tools, one a line, with the JSON Schema of their arguments:"
_EXAMPLE: Final = '{"name": ..., "arguments": {...}}'

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Input of the template. `notes`: what is shown in another place or form than in the caller's messages."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def conversation_of(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    form: CallFormat | None = None,
) -> Conversation:
    """Returns messages and tools in a form that the template renders in full.

    `form`: how calls are written in running text, where the model may talk and call; None where it does one of both.
    Raises RequestError, with the key's name, for a key that the template ignores.
    """
    if not tokenizer.has_template:
        raise RequestError("this checkpoint has no chat template; pass prompt= or prompt_ids= instead of messages=")
    template, notes = tokenizer.template, list[str]()
    _check_keys(template, messages)
    shown = _with_instructions(template, messages, notes)
    shown = _in_order_of_calls(shown, notes)
    shown = [one for message in shown for one in _with_calls(template, message, notes, form)]
    if tools and not template.shows_tools:
        shown, tools = _with_tools(template, shown, tools_block(tools, form), notes), ()
    notes += _markers(tokenizer, messages)
    return Conversation(tuple(shown), tuple(tools), tuple(dict.fromkeys(notes)))


def check_shown(messages: Sequence[Message], rendered: set[int | None]) -> None:
    """Raises RequestError for a message whose content the template did not render.

    `rendered`: indices of the messages that it rendered.
    """
    for index, message in enumerate(messages):
        if message["content"] and index not in rendered:
            raise RequestError(
                f"the chat template writes nothing of messages[{index}] (role {message['role']!r}), so the model would "
                "not see it; give it another role, or leave it out"
            )


def tools_block(tools: Sequence[Mapping[str, Any]], form: CallFormat | None = None) -> str:
    """Returns the default block of tools: instructions, then one line for each tool."""
    head = TOOLS_HEAD
    if form is not None and form.head:
        head = f"{TOOLS_IN_TEXT}\n{_in_text([_EXAMPLE], form)}\n{_TOOLS_LISTED}"
    return "\n".join([head, *map(canonical, tools)])


def _in_text(calls: Sequence[str], form: CallFormat) -> str:
    """Returns calls as they are written in running text; each in a block of its own where a block has one call."""
    if form.between is None:
        return "\n".join(form.head + call + form.tail for call in calls)
    return form.head + form.between.join(calls) + form.tail


def marker_note(what: str, marker: str) -> str:
    """Returns the note on a control marker that was tokenized as plain text."""
    return f"{what} holds the control marker {marker!r}, which was read as text"


def _check_keys(template: ChatTemplate, messages: Sequence[Message]) -> None:
    """Raises RequestError for a message key that is not of the common form and that the template ignores."""
    for index, message in enumerate(messages):
        extra = [key for key in message if key not in OWN]
        if message["role"] != "tool" and "name" in message:
            extra.append("name")
        for key in extra:
            if not (template.names(key) and template.shows_key(message["role"], key)):
                raise RequestError(
                    f"messages[{index}]: the chat template has no place for {key!r}, so the model would not see it; "
                    "leave it out, or write it into the content"
                )


def _with_instructions(template: ChatTemplate, messages: Sequence[Message], notes: list[str]) -> list[Message]:
    """Returns the messages, with role "developer" replaced by "system" if the template does not know it."""
    if template.names("developer") or all(message["role"] != "developer" for message in messages):
        return list(messages)
    notes.append("messages of role 'developer' were shown as the system's: the chat template has no such role")
    shown: list[Message] = []
    for message in messages:
        if message["role"] != "developer":
            shown.append(message)
        elif shown and all(
            one["role"] == "system" for one in shown
        ):  # merged, because templates accept one system message, the first
            shown[-1] = {**shown[-1], "content": f"{shown[-1]['content']}\n\n{message['content']}"}
        else:
            shown.append({**message, "role": "system"})
    return shown


def _in_order_of_calls(messages: Sequence[Message], notes: list[str]) -> list[Message]:
    """Returns the messages with tool answers in the order of their calls, because most templates do not render ids."""
    shown: list[Message] = []
    positions: dict[str, int] = {}
    for message in messages:
        shown.append(message)
        for position, call in enumerate(message.get("tool_calls") or ()):
            positions[call.get("id", "")] = position
        at = len(shown) - 1
        while at and (own := positions.get(message.get("tool_call_id", ""))) is not None:
            before = positions.get(shown[at - 1].get("tool_call_id", ""))
            if before is None or before <= own:
                break
            shown[at - 1], shown[at] = shown[at], shown[at - 1]
            notes.append("answers of tools were put in the order of their calls")
            at -= 1
    return shown


def _with_calls(template: ChatTemplate, message: Message, notes: list[str], form: CallFormat | None) -> list[Message]:
    """Returns `message` with its tool calls where the template renders them, else as the text that models write."""
    calls = message.get("tool_calls") or ()
    if not calls:
        return [message]
    plain = {key: value for key, value in message.items() if key not in ("tool_calls", "kind")}
    text = [{**plain, **({"kind": message["kind"]} if "kind" in message else {})}] if message["content"] else []
    if template.shows_calls:
        if text and not template.shows_calls_beside_text:
            notes.append(
                "a text and the calls beside it were shown as two messages: the chat template drops one of two"
            )
            return [*text, {**message, "content": ""}]
        return [message]
    texts = [call_text(call) for call in calls]
    if template.names("kind"):  # "tool_call" is a kind, so each call becomes a message
        opening = [{"kind": "plan", **one} for one in text]
        return [*opening, *({**plain, "kind": "tool_call", "content": call} for call in texts)]
    notes.append("calls of tools were written as text: the chat template has no place for them")
    written = texts if form is None or not form.head else [_in_text(texts, form)]
    return [{**plain, "content": "\n".join([*([message["content"]] if text else []), *written])}]


def _with_tools(template: ChatTemplate, messages: Sequence[Message], block: str, notes: list[str]) -> list[Message]:
    """Adds the default block of tools to the system message, or before the first message if there can be none."""
    first, rest = messages[0], list(messages[1:])
    if first["role"] == "system":
        where, shown = "behind the system's message", [{**first, "content": _joined(first["content"], block)}, *rest]
    elif template.shows_system:
        where, shown = "as the system's message", [{"role": "system", "content": block}, first, *rest]
    else:
        where, shown = "before the first message", [{**first, "content": _joined(block, first["content"])}, *rest]
    notes.append(f"tools were shown in a default block {where}: the chat template has no place for them")
    return shown


def _joined(first: str, second: str) -> str:
    return "\n\n".join(text for text in (first, second) if text)


def _markers(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str]:
    """Returns notes on control markers in the contents."""
    found = [(index, tokenizer.marker_in(message["content"])) for index, message in enumerate(messages)]
    return [marker_note(f"messages[{index}]", marker) for index, marker in found if marker is not None]
