"""Messages and tools of OpenAI's API in the form that chat templates and the engine take.

Knows the request models. Does not know templates. What is changed is noted; what is refused the engine refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

_SYSTEM: Final = ("system", "developer")
_OPEN: Final = frozenset(
    ("additionalProperties", "unevaluatedProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if")
)
"""Keywords that say themselves which further arguments a tool takes."""


def joined(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[Mapping[str, Any], ...], tuple[str, ...]]:
    """Returns the messages with neighbouring system messages made one, because templates have a place for one; and a
    note if that changed anything."""
    found = tuple(_joined(messages))
    notes = ("neighbouring system messages were joined to one",) if len(found) < len(messages) else ()
    return found, notes


def _joined(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for key, group in groupby(messages, key=_is_plain_system):
        run = list(group)
        if not key or len(run) == 1:
            yield from run
        else:
            yield {**run[0], "content": "\n\n".join(one["content"] for one in run)}


def _is_plain_system(message: Mapping[str, Any]) -> bool:
    return message["role"] in _SYSTEM and isinstance(message.get("content"), str)


def closed(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tool that takes no arguments besides those it lists, where its parameters leave that open.

    Whatever fits the narrower schema fits the one given; a function would fail on an argument that it does not have.
    """
    function = tool["function"]
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping) or "properties" not in parameters or not _OPEN.isdisjoint(parameters):
        return dict(tool)
    return {**tool, "function": {**function, "parameters": {**parameters, "additionalProperties": False}}}
