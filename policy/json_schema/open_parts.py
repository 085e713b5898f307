"""Open parts of schemas that no grammar tracks: objects with keys that are not listed, numbers without bounds.

Knows keywords of JSON Schema. Does not know grammars or texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .document import below

_ELSEWHERE: Final = {"$ref", "enum", "const", "allOf", "anyOf", "oneOf"}
"""Keywords that describe the value in another part, which is checked on its own."""
_OBJECT: Final = {"properties", "patternProperties", "additionalProperties", "required"}


def may_repeat(document: Any) -> bool:
    """Whether some object of the schema allows keys that it does not list, so that one could be repeated."""
    return _some_part(document, _open)


def may_overflow(document: Any) -> bool:
    """Whether some part of the schema allows numbers without a lower or an upper bound."""
    return _some_part(document, _unbounded)


def _some_part(document: Any, open_: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether some part of the schema is `open_`, or allows any value."""
    stack = [document]
    while stack:
        part = stack.pop()
        if part is True or (isinstance(part, dict) and (open_(part) or _any_items(part))):
            return True
        stack.extend(child for _, child in below(part))
    return False


def _any_items(part: dict[str, Any]) -> bool:
    """Whether the part allows an array with items that it does not describe."""
    if "array" not in part.get("type", "array") or ("type" not in part and _ELSEWHERE & set(part)):
        return False
    return "items" not in part or (isinstance(part["items"], list) and "additionalItems" not in part)


def _unbounded(part: dict[str, Any]) -> bool:
    """Whether the part itself allows numbers without a lower or an upper bound."""
    if "type" in part:
        types = [part["type"]] if isinstance(part["type"], str) else part["type"]
        if not {"number", "integer"} & set(types):
            return False
    elif _ELSEWHERE & set(part):
        return False
    low, high = {"minimum", "exclusiveMinimum"} & set(part), {"maximum", "exclusiveMaximum"} & set(part)
    return not ({"const", "enum"} & set(part) or (low and high))


def _open(part: dict[str, Any]) -> bool:
    """Whether the part itself allows an object with any key; parts that it refers to or combines are checked apart."""
    if "object" not in part.get("type", "object") or (_ELSEWHERE & set(part) and not _OBJECT & set(part)):
        return False
    return part.get("additionalProperties") is not False or bool(part.get("patternProperties"))
