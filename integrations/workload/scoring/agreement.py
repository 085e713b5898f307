"""How far an answer agrees with the recorded one, and whether it fits its schema.

Knows answers and schemas. Does not know who answered. The score of a call is 0 to 1: for tool calls 1 where all names
and arguments are equal, else 0; for JSON the share of its fields that are equal; for prose one minus the edit distance
over the longer length. An answer of another kind than the recorded one scores 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trimode.policy.errors import SchemaError
from trimode.policy.json_schema import canonical, validator_of, violation
from trimode.policy.schema import schema_of, tool_schema

from ..calls import Answer, RecordedCall
from .edit_distance import similarity

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of one answer. Shares are 0..1, None where they do not apply. `names`, `arguments`: of tool calls, all
    of them equal; `fields`: of JSON and of arguments; `prose`: similarity of texts."""

    score: float
    valid: bool | None
    names: bool | None = None
    arguments: bool | None = None
    fields: float | None = None
    prose: float | None = None


def agreement(call: RecordedCall, found: Answer) -> Agreement:
    """Returns how far `found` agrees with what was recorded. The call has an answer."""
    recorded, valid = call.answer or Answer(), is_valid(call, found)
    if recorded.calls:
        return _of_calls(recorded, found, valid)
    if found.calls:
        return Agreement(score=0.0, valid=valid)
    if call.kind == "json":
        share = _of_json(recorded.text, found.text)
        return Agreement(score=share, valid=valid, fields=share)
    same = similarity(recorded.text.strip(), found.text.strip())
    return Agreement(score=same, valid=valid, prose=same)


def _of_calls(recorded: Answer, found: Answer, valid: bool | None) -> Agreement:
    names = [use.name for use in recorded.calls] == [use.name for use in found.calls]
    shares = [_share(one.arguments, two.arguments) for one, two in zip(recorded.calls, found.calls, strict=False)]
    every = max(len(recorded.calls), len(found.calls))
    equal = names and all(
        canonical_equal(one.arguments, two.arguments) for one, two in zip(recorded.calls, found.calls, strict=True)
    )
    return Agreement(score=float(equal), valid=valid, names=names, arguments=equal, fields=sum(shares) / every)


def _of_json(recorded: str, found: str) -> float:
    try:
        then = json.loads(recorded)
    except ValueError:
        return similarity(recorded.strip(), found.strip())
    try:
        return _share(then, json.loads(found))
    except (ValueError, RecursionError):
        return 0.0


def canonical_equal(one: Json, other: Json) -> bool:
    """Returns whether two JSON values are the same; the order of keys says nothing, and 1 is 1.0 but not true."""
    return dict(_leaves(one)) == dict(_leaves(other))


def _share(one: Json, other: Json) -> float:
    """Returns the share of the leaves of both values that are equal, at the same place."""
    then, now = dict(_leaves(one)), dict(_leaves(other))
    return sum(now.get(place) == leaf for place, leaf in then.items()) / len(then | now)


def _leaves(value: Json, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], tuple[str, Json]]]:
    """Yields the places of a value's leaves, with their types, and empty containers as leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, str(key)))
    elif isinstance(value, list | tuple) and value:
        for at, inner in enumerate(value):
            yield from _leaves(inner, (*place, at))
    else:
        yield place, _leaf(value)


def _leaf(value: Json) -> tuple[str, Json]:
    if isinstance(value, Mapping | list | tuple):
        return ("object" if isinstance(value, Mapping) else "array"), None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("number" if number else type(value).__name__), value


def is_valid(call: RecordedCall, found: Answer) -> bool | None:
    """Returns whether an answer fits the call's schema, or its tool calls their tools; None where nothing says."""
    if found.calls:
        return all(_fits_tool(call, use.name, use.arguments) for use in found.calls) if call.tools else None
    if call.kind == "tool_call" and call.tools:
        return False
    if call.schema is None:
        return None
    if _is_text_format(call.schema):
        return _parses(schema_of(call.schema), found.text)
    try:
        return violation(validator_of(call.schema), json.loads(found.text)) is None
    except (ValueError, RecursionError):
        return False


def _is_text_format(document: Json) -> bool:
    return isinstance(document, Mapping) and len(document) == 1 and next(iter(document)).startswith("x-")


def _fits_tool(call: RecordedCall, name: str, arguments: Json) -> bool:
    if not isinstance(arguments, Mapping):
        return False
    try:
        return _parses(tool_schema(call.tools), canonical({"name": name, "arguments": dict(arguments)}))
    except SchemaError:
        return False


def _parses(target: Any, text: str) -> bool:
    try:
        target.parse(text)
    except SchemaError:
        return False
    return True
