"""Envelopes around schemas in other interfaces, and dicts that are no schema at all.

Knows OpenAI's `response_format` and `text.format`. Does not know grammars. A dict without a keyword of JSON Schema is
refused, because it would make any output valid; {} asks for that explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import MalformedSchema, SchemaError, shown
from ..json_schema import ANNOTATIONS, STRUCTURE, VALIDATED

Json = Any
_ENVELOPE: Final = frozenset(("name", "description", "strict", "schema", "type"))
"""Keys of an envelope around a schema."""
_DESCRIPTIVE: Final = ANNOTATIONS | (STRUCTURE - {"$defs", "definitions"})
"""Keywords that restrict nothing: a dict with these alone means any JSON, as {} does."""


def unwrapped(target: Any) -> Any:
    """The schema inside an envelope; None for the envelope of plain text. Other targets are returned unchanged."""
    if not isinstance(target, Mapping):
        return target
    keys = set(target)
    for key in ("response_format", "format"):
        if keys == {key} and isinstance(target[key], Mapping):
            return unwrapped(target[key])
    kind = target.get("type")
    if kind == "text" and keys == {"type"}:
        return None
    if kind == "json_object" and keys == {"type"}:
        return {"type": "object"}
    if kind == "json_schema":
        inner = target.get("json_schema", target)
        if not isinstance(inner, Mapping) or "schema" not in inner:
            raise SchemaError(f"a json_schema format without a schema: {shown(dict(target))}; put it under 'schema'")
        return inner["schema"]
    if isinstance(target.get("schema"), Mapping | bool) and keys <= _ENVELOPE - {"type"}:
        return target["schema"]
    return target


def check_has_keywords(document: Mapping[str, Json]) -> None:
    """Raises MalformedSchema for a dict that is not empty and has no keyword of any draft."""
    if not document or not VALIDATED.isdisjoint(document) or _DESCRIPTIVE.issuperset(document):
        return
    names = [key for key in document if isinstance(key, str)]
    if not _DESCRIPTIVE.union(("$defs", "definitions")).isdisjoint(names):
        names = [key for key in names if key not in _DESCRIPTIVE]
    if {"name"} < set(names):
        hint = "a tool's description belongs into a list: tools=[...], or schema=[...]"
    elif set(names) <= {"$defs", "definitions"}:
        hint = "definitions alone restrict nothing; refer to one of them by $ref, or pass {} for any JSON"
    else:
        hint = (
            f"none of {shown(names)} is a keyword of JSON Schema; write "
            '{"type": "object", "properties": {...}}, or pass {} for any JSON'
        )
    raise MalformedSchema("", str(names[0]) if names else "", "$", hint)
