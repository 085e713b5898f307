"""Documents of decisions as messages and questions of ours.

Knows both documents' models and the engine's questions. Does not know HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue

from trimode.engine.errors import RequestError
from trimode.policy.decisions import DecisionQuestion

from .decisions import (
    CallOutput,
    Choice,
    CustomCall,
    FunctionCall,
    MessageItem,
    Noul,
    NoulCriteria,
    OneChoice,
    OneScore,
    Parts,
    Predicate,
    Question,
    RefusalPart,
    TextPart,
    Wire,
)

InputItem = MessageItem | FunctionCall | CustomCall | CallOutput


def text_of(parts: Parts | JsonValue) -> str:
    """Returns a text, parts of one, or a JSON value as the model reads it."""
    if isinstance(parts, str):
        return parts
    if isinstance(parts, list) and parts and all(isinstance(part, Wire) for part in parts):
        return "\n".join(_part(part) for part in parts)
    return json.dumps(parts, ensure_ascii=False)


def _part(part: Any) -> str:
    if isinstance(part, TextPart):
        return part.text
    return part.refusal if isinstance(part, RefusalPart) else json.dumps(part.data, ensure_ascii=False)


def messages_of(
    items: str | Sequence[MessageItem | FunctionCall | CustomCall | CallOutput],
) -> str | list[dict[str, Any]]:
    """Returns the input as `Engine.decide` takes it; calls in a row become one assistant message."""
    if isinstance(items, str):
        return items
    found: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, MessageItem):
            found.append({"role": item.role, "content": text_of(item.content)})
        elif isinstance(item, CallOutput):
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)})
        else:
            arguments = item.arguments if isinstance(item, FunctionCall) else json.dumps({"input": item.input})
            call = {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": arguments},
            }
            if not found or "tool_calls" not in found[-1]:
                found.append({"role": "assistant", "content": "", "tool_calls": []})
            found[-1]["tool_calls"].append(call)
    return found


def question_of(asked: Question) -> DecisionQuestion:
    """Returns a question of `/v1/decisions`. Raises RequestError."""
    instructions = text_of(asked.instructions)
    if isinstance(asked, Predicate):
        return DecisionQuestion.predicate(instructions)
    if isinstance(asked, Choice):
        texts = option_texts([option.value for option in asked.choices])
        described = {text: option.description or "" for text, option in zip(texts, asked.choices, strict=True)}
        if len(described) < len(texts):
            raise RequestError("choices: expected each value once")
        return DecisionQuestion.choice(instructions, described)
    levels = [f"{level.label}: {level.description}" if level.description else level.label for level in asked.levels]
    return DecisionQuestion.score(instructions, levels)


_BOOLEANS: Final[Mapping[bool, str]] = {True: "true", False: "false"}


def option_texts(values: Sequence[str | bool]) -> list[str]:
    """Returns what the model would write for each value; a boolean beside a string of the same text says that it is."""
    strings = {value for value in values if isinstance(value, str)}
    return [
        value if isinstance(value, str) else _BOOLEANS[value] + (" (boolean)" if _BOOLEANS[value] in strings else "")
        for value in values
    ]


def system_one_question(asked: Noul | OneChoice | OneScore) -> DecisionQuestion:
    """Returns a question of `/v1/systemone`. Raises RequestError."""
    instructions = text_of(asked.instructions)
    if isinstance(asked, Noul):
        criteria = asked.criteria or NoulCriteria()
        return DecisionQuestion.predicate(instructions, true=_told(criteria.true), false=_told(criteria.false))
    if isinstance(asked, OneChoice):
        return DecisionQuestion.choice(instructions, {option: _told(what) for option, what in asked.criteria.items()})
    return DecisionQuestion.score(instructions, [_told(level) for level in asked.criteria])


def _told(value: JsonValue) -> str:
    return "" if value is None else text_of(value)
