"""Conventions of frameworks that an engine does not share: several system messages, and objects without other keys.

Knows messages and JSON Schemas as plain values. Does not know frameworks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_SYSTEM: Final = ("system", "developer")
_MAPS: Final = ("properties", "$defs", "definitions", "patternProperties")
_LISTS: Final = ("anyOf", "oneOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties")
"""Keywords with schemas of a value or its parts. `allOf` is left as it is: closed parts would refuse others' keys."""


def one_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the messages with the system messages at their beginning joined to one, as chat templates expect it."""
    first = next((at for at, one in enumerate(messages) if one.get("role") not in _SYSTEM), len(messages))
    if first < 2 or not all(isinstance(one.get("content"), str) for one in messages[:first]):
        return [*messages]
    return [{"role": "system", "content": "\n\n".join(one["content"] for one in messages[:first])}, *messages[first:]]


def closed(schema: Any) -> Any:
    """Returns a schema whose objects have the listed properties and no others, unless it says which others.

    For schemas made of Python functions and types, which have no other arguments, and where a caller asks for `strict`.
    """
    if not isinstance(schema, Mapping):
        return schema
    found = {**schema}
    for key in _MAPS:
        if isinstance(found.get(key), Mapping):
            found[key] = {name: closed(part) for name, part in found[key].items()}
    for key in _LISTS:
        if isinstance(found.get(key), list):
            found[key] = [closed(part) for part in found[key]]
    found |= {key: closed(found[key]) for key in _SINGLE if key in found}
    listed = "properties" in found and "patternProperties" not in found and "allOf" not in found
    return {**found, "additionalProperties": False} if listed and "additionalProperties" not in found else found
