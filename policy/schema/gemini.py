"""Gemini's dialect of schemas: types in capitals, counts as strings, keys in snake case too.

Knows that dialect of OpenAPI 3.0. Does not know grammars, or `nullable`, which `common_form.py` converts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..json_schema import mapped

Json = Any
_TYPES: Final = frozenset(("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"))
_KEYS: Final = {
    "any_of": "anyOf", "min_items": "minItems", "max_items": "maxItems", "min_length": "minLength",
    "max_length": "maxLength", "min_properties": "minProperties", "max_properties": "maxProperties",
    "additional_properties": "additionalProperties", "property_ordering": "propertyOrdering", "defs": "$defs",
    "ref": "$ref",
}  # fmt: skip
"""JSON Schema's names of keywords in snake case."""
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
"""Keywords whose numbers may be written as strings."""


def speaks_gemini(schema: Mapping[str, Json]) -> bool:
    """Whether a schema is in Gemini's dialect: its type is in capitals."""
    return isinstance(kind := schema.get("type"), str) and kind in _TYPES


def lowered(schema: Mapping[str, Json]) -> dict[str, Json]:
    """`schema` as JSON Schema, with properties in the order of `propertyOrdering`."""
    result: Json = mapped({_KEYS.get(key, key): value for key, value in schema.items()}, _below)
    if speaks_gemini(result):
        kind = str(result.pop("type")).lower()
        result |= {} if kind == "type_unspecified" else {"type": kind}
    for key in _COUNTS:
        if isinstance(result.get(key), str) and result[key].isdecimal():
            result[key] = int(result[key])
    order, named = result.get("propertyOrdering"), result.get("properties")
    if isinstance(order, list) and isinstance(named, dict):
        first = {key: named[key] for key in order if isinstance(key, str) and key in named}
        result["properties"] = {**first, **named}
    return dict(result)


def _below(child: Json) -> Json:
    return lowered(child) if isinstance(child, dict) else child
