"""How long the shortest value of a schema is, and so how far one choice can lead from the end of a text.

Knows the keywords that ask for something to be there, and how many tokens text may take. An estimate, rather too long
than too short: patterns are read as their samples, and of cases that must all hold the lengths are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import ceil, inf, log10
from typing import Any, Final

from .disjoint import named_types
from .samples import samples
from .walk import Document, below

Json = Any
_FORMATS: Final = {"date": 12, "time": 11, "date-time": 22, "duration": 5, "uuid": 38, "email": 9, "uri": 10}
_TOKENS_A_CHARACTER: Final = 0.75
_FORMAT: Final = 12
"""Of a format that is not listed."""


def longest_part(root: Json) -> int:
    """The most tokens that any part of a schema asks for, with its name if it has one."""
    document, found, stack = Document(root), 0.0, [root]
    known: dict[str, float] = {}
    while stack:
        part = stack.pop()
        least = _least(part, document, known)
        found = max(found, least if least < inf else 0, *_longest_names(part))
        stack.extend(child for _, child in below(part))
    return 4 + ceil(_TOKENS_A_CHARACTER * found)


def _longest_names(schema: Json) -> Iterator[float]:
    """What a choice between names or values may have to spell."""
    if not isinstance(schema, dict):
        return
    yield max((_size(value) for value in schema.get("enum", ())), default=0)
    yield _size(schema["const"]) if "const" in schema else 0
    yield max((_size(name) for name in schema.get("properties", ())), default=0)


def _size(value: Json) -> float:
    """Characters of `value` as JSON; a letter beyond ASCII counts for as many tokens as it has bytes."""
    text = json.dumps(value, ensure_ascii=False)
    return sum(1 if letter.isascii() else len(letter.encode()) / _TOKENS_A_CHARACTER for letter in text)


def _least(schema: Json, document: Document, known: dict[str, float]) -> float:
    if not isinstance(schema, dict):
        return 1
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return min((_size(value) for value in values), default=1)
    own = min((_of_type(name, schema, document, known) for name in _types(schema)), default=1)
    parts = [_least(part, document, known) for part in schema.get("allOf", ())]
    if isinstance(reference := schema.get("$ref"), str):
        parts.append(_referred(reference, document, known))
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            parts.append(min(_least(part, document, known) for part in schema[key]))
    return own + sum(parts)


def _types(schema: dict[str, Json]) -> Iterable[str]:
    if "type" in schema:
        return named_types(schema["type"])
    asked = {"required": "object", "minProperties": "object", "minItems": "array", "minLength": "string"}
    return {kind for key, kind in asked.items() if schema.get(key)} or {"null"}


def _referred(reference: str, document: Document, known: dict[str, float]) -> float:
    if reference not in known:
        known[reference] = inf  # while it is looked at: a way out that leads back here is none
        try:
            known[reference] = _least(document.at(reference), document, known)
        except (LookupError, TypeError, ValueError):
            known[reference] = 1
    return known[reference]


def _of_type(name: str, schema: dict[str, Json], document: Document, known: dict[str, float]) -> float:
    match name:
        case "string":
            return 2 + max(_text(schema), int(schema.get("minLength", 0)))
        case "number" | "integer":
            bounds = [abs(schema.get(key, 0)) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
            return 2 + int(log10(max(1, *bounds, schema.get("multipleOf", 1))))
        case "array":
            return _array(schema, document, known)
        case "object":
            return _object(schema, document, known)
        case _:
            return 5


def _text(schema: dict[str, Json]) -> int:
    if isinstance(pattern := schema.get("pattern"), str):
        return min(map(len, samples(pattern)), default=_FORMAT)
    return _FORMATS.get(schema["format"], _FORMAT) if "format" in schema else 0


def _array(schema: dict[str, Json], document: Document, known: dict[str, float]) -> float:
    least, items = schema.get("minItems", 0), schema.get("items", True)
    listed = schema.get("prefixItems", items if isinstance(items, list) else [])
    rest = items if isinstance(items, dict) else True
    each = [_least(listed[at] if at < len(listed) else rest, document, known) for at in range(min(least, 100))]
    return float(2 + sum(each) + least)


def _object(schema: dict[str, Json], document: Document, known: dict[str, float]) -> float:
    properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    required = schema.get("required", ())
    named = [_size(name) + 2 + _least(properties.get(name, other), document, known) for name in required]
    more: int = max(0, schema.get("minProperties", 0) - len(named))
    return 2.0 + sum(named) + more * (6 + _least(other, document, known))
