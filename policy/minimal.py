"""A small value that fits a schema, for tests that do not care which.

Knows plain JSON Schema. Does not know grammars: what it makes is a proposal, and whoever takes it checks it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from .walk import Document

Json = Any
_FORMATS: Final = {
    "date": "2000-01-01", "time": "00:00:00Z", "date-time": "2000-01-01T00:00:00Z", "duration": "P1D",
    "email": "a@example.com", "hostname": "example.com", "ipv4": "127.0.0.1", "ipv6": "::1",
    "uri": "http://example.com", "uuid": "00000000-0000-4000-8000-000000000000",
}  # fmt: skip
_EMPTY: Final[dict[str, Json]] = {"null": None, "boolean": False, "array": [], "object": {}, "string": "", "number": 0}


def minimal(document: dict[str, Json]) -> Json:
    """The first alternative, required properties only, as few items and characters as allowed; patterns are not read.

    Raises RecursionError where the first alternatives never end.
    """
    return _value(document, Document(document))


def _value(schema: Json, document: Document) -> Json:
    if not isinstance(schema, dict):
        return None
    schema = _flat(schema, document)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, document)
    if kind == "array":
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        parts = [*first, *[rest] * schema.get("minItems", 0)][: schema.get("minItems", 0)]
        return [_value(part, document) for part in parts]
    if kind == "string":
        return _FORMATS.get(schema.get("format", ""), "a" * schema.get("minLength", 0))
    return _number(schema, whole=kind == "integer") if kind in ("integer", "number") else _EMPTY[kind]


def _flat(schema: dict[str, Json], document: Document) -> dict[str, Json]:
    """The schema with its reference, its parts and the first of its alternatives written into it."""
    made = dict(schema)
    while parts := [key for key in ("$ref", "allOf", "anyOf", "oneOf") if key in made]:
        given = made.pop(parts[0])
        inner = document.at(given) if parts[0] == "$ref" else given if parts[0] == "allOf" else given[0]
        for part in inner if isinstance(inner, list) else [inner]:
            if isinstance(part, dict):
                made = _both(made, part)
    return made


def _both(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json]:
    properties = {**one.get("properties", {}), **other.get("properties", {})}
    required = [*dict.fromkeys([*one.get("required", ()), *other.get("required", ())])]
    return {**one, **other, "properties": properties, "required": required}


def _kind(schema: dict[str, Json]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        named = named[0]
    return str(named) if named is not None else "object" if schema.get("required") else "null"


def _object(schema: dict[str, Json], document: Document) -> dict[str, Json]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return {name: _value(properties.get(name, others), document) for name in schema.get("required", ())}


def _number(schema: dict[str, Json], *, whole: bool) -> float:
    low = schema.get("minimum", -math.inf)
    above = schema.get("exclusiveMinimum")
    if isinstance(above, int | float) and not isinstance(above, bool):
        low = max(low, math.floor(above) + 1 if whole else above + 0.5)
    high = schema.get("maximum", math.inf)
    below = schema.get("exclusiveMaximum")
    if isinstance(below, int | float) and not isinstance(below, bool):
        high = min(high, math.ceil(below) - 1 if whole else below - 0.5)
    step = schema.get("multipleOf")
    found = 0 if low <= 0 <= high else low if low > 0 else high
    if step:
        found = math.ceil(found / step) * step if low > 0 else math.floor(found / step) * step
    return math.ceil(found) if whole else found
