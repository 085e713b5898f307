"""Schemas as Gemini's function declarations write them: types in capitals, counts as strings, keys in snake case too.

Knows that dialect of OpenAPI 3.0. `nullable` is left to `common_form`, which knows what it means.
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
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def speaks_gemini(schema: Mapping[str, Json]) -> bool:
    """JSON Schema's types are in small letters."""
    return isinstance(kind := schema.get("type"), str) and kind in _TYPES


def lowered(schema: Mapping[str, Json]) -> dict[str, Json]:
    """`schema` in JSON Schema's words."""
    made: Json = mapped({_KEYS.get(key, key): value for key, value in schema.items()}, _below)
    if speaks_gemini(made):
        kind = str(made.pop("type")).lower()
        made |= {} if kind == "type_unspecified" else {"type": kind}
    for key in _COUNTS:
        if isinstance(made.get(key), str) and made[key].isdecimal():
            made[key] = int(made[key])
    order, named = made.get("propertyOrdering"), made.get("properties")
    if isinstance(order, list) and isinstance(named, dict):
        first = {key: named[key] for key in order if isinstance(key, str) and key in named}
        made["properties"] = {**first, **named}
    return dict(made)


def _below(child: Json) -> Json:
    return lowered(child) if isinstance(child, dict) else child
