"""Which schemas leave something open that no grammar remembers: keys that objects do not name, numbers without bounds.

Knows keywords of JSON Schema. Does not know grammars or texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .document import below

_ELSEWHERE: Final = {"$ref", "enum", "const", "allOf", "anyOf", "oneOf"}
_OBJECT: Final = {"properties", "patternProperties", "additionalProperties", "required"}


def may_repeat(document: Any) -> bool:
    """Whether some object of the schema takes keys that it does not name, or may be anything."""
    return _some_part(document, _open)


def may_overflow(document: Any) -> bool:
    """Whether some part of the schema takes numbers that are open on a side."""
    return _some_part(document, _uncounted)


def _some_part(document: Any, open_: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether a part of the schema is `open_`, or may be anything."""
    stack = [document]
    while stack:
        part = stack.pop()
        if part is True or (isinstance(part, dict) and (open_(part) or _any_items(part))):
            return True
        stack.extend(child for _, child in below(part))
    return False


def _any_items(part: dict[str, Any]) -> bool:
    """Whether an array may hold items that the part does not describe."""
    if "array" not in part.get("type", "array") or ("type" not in part and _ELSEWHERE & set(part)):
        return False
    return "items" not in part or (isinstance(part["items"], list) and "additionalItems" not in part)


def _uncounted(part: dict[str, Any]) -> bool:
    if "type" in part:
        types = [part["type"]] if isinstance(part["type"], str) else part["type"]
        if not {"number", "integer"} & set(types):
            return False
    elif _ELSEWHERE & set(part):
        return False
    below_, above = {"minimum", "exclusiveMinimum"} & set(part), {"maximum", "exclusiveMaximum"} & set(part)
    return not ({"const", "enum"} & set(part) or (below_ and above))


def _open(part: dict[str, Any]) -> bool:
    """Whether the part itself lets an object have any key; what it refers to or combines is asked on its own."""
    if "object" not in part.get("type", "object") or (_ELSEWHERE & set(part) and not _OBJECT & set(part)):
        return False
    return part.get("additionalProperties") is not False or bool(part.get("patternProperties"))
