"""Schemas in the envelopes of other interfaces, and dicts that are no schema at all.

Knows OpenAI's `response_format` and `text.format`. Does not know grammars. A dict in which JSON Schema reads nothing
holds nothing, so that any output would be valid; whoever wants that writes {}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jsonschema

from ..errors import MalformedSchema, SchemaError, shown
from ..json_schema import ANNOTATIONS, STRUCTURE

Json = Any
_AROUND: Final = frozenset(("name", "description", "strict", "schema", "type"))
_DRAFTS: Final = (
    jsonschema.Draft4Validator, jsonschema.Draft6Validator, jsonschema.Draft7Validator,
    jsonschema.Draft201909Validator, jsonschema.Draft202012Validator,
)  # fmt: skip
_READ: Final = frozenset(key for draft in _DRAFTS for key in draft.VALIDATORS) | {"nullable", "then", "else"}
_SAID: Final = ANNOTATIONS | (STRUCTURE - {"$defs", "definitions"})
"""Words about a value that hold it to nothing: a dict of these alone means any JSON, as {} does."""


def unwrapped(target: Any) -> Any:
    """The schema that an envelope holds; None for an envelope that asks for text. All else comes back as it is."""
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
    if isinstance(target.get("schema"), Mapping | bool) and keys <= _AROUND - {"type"}:
        return target["schema"]
    return target


def check_says_something(document: Mapping[str, Json]) -> None:
    """Raises MalformedSchema where no draft reads a single keyword of a dict that is not empty."""
    if not document or not _READ.isdisjoint(document) or _SAID.issuperset(document):
        return
    names = [key for key in document if isinstance(key, str)]
    if not _SAID.union(("$defs", "definitions")).isdisjoint(names):
        names = [key for key in names if key not in _SAID]
    if {"name"} < set(names):
        hint = "a tool's description belongs into a list: tools=[...], or schema=[...]"
    elif set(names) <= {"$defs", "definitions"}:
        hint = "definitions alone hold nothing; say which of them is meant by $ref, or pass {} for any JSON"
    else:
        hint = (
            f"none of {shown(names)} is a keyword of JSON Schema; write "
            '{"type": "object", "properties": {...}}, or pass {} for any JSON'
        )
    raise MalformedSchema("", str(names[0]) if names else "", "$", hint)
