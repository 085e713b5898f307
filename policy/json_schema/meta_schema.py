"""Keywords whose values have the right shape at a glance, in every draft: the meta-schema need not be asked.

Knows what the meta-schemas of drafts 4 to 2020-12 say of common keywords. Asking them through jsonschema takes about a
hundred times as long. What is not plainly right is left to them: this module refuses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

Json = Any
_TYPES: Final = frozenset(("null", "boolean", "object", "array", "string", "integer", "number"))
_DRAFT: Final = re.compile(r"https?://json-schema\.org/[\w./-]+#?", re.ASCII)
_REFERENCE: Final = re.compile(r"#(?:/[\w.$-]*)*", re.ASCII)


def fits_every_draft(schema: dict[str, Json]) -> bool:
    """Whether each keyword of a schema, whose subschemas are empty, has a value that every meta-schema takes."""
    return all(
        _SHAPES[key](value) if key in _SHAPES else key not in LEFT_TO_META_SCHEMAS for key, value in schema.items()
    )


def _text(value: Json) -> bool:
    return isinstance(value, str)


def _flag(value: Json) -> bool:
    return isinstance(value, bool)


def _count(value: Json) -> bool:
    return type(value) is int and value >= 0


def _number(value: Json) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))


def _positive(value: Json) -> bool:
    return _number(value) and value > 0


def _pattern(value: Json) -> bool:
    try:
        re.compile(value)
    except (TypeError, re.error, RecursionError, OverflowError):
        return False
    return isinstance(value, str)


def _type(value: Json) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_text, value)) and _TYPES.issuperset(value) and len(set(value)) == len(value)
    return isinstance(value, str) and value in _TYPES


def _names(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value)) and len(set(value)) == len(value)


def _values(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and len(set(map(repr, value))) == len(value)


def _schema(value: Json) -> bool:
    return isinstance(value, dict) and not value


def _schema_or_flag(value: Json) -> bool:
    return isinstance(value, bool) or value == {}


def _schemas(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_schema, value))


def _named(value: Json) -> bool:
    return isinstance(value, dict) and all(map(_schema, value.values()))


def _patterned(value: Json) -> bool:
    return _named(value) and all(map(_pattern, value))


def _brings(value: Json) -> bool:
    return isinstance(value, dict) and all(child == {} or _names(child) for child in value.values())


def _reference(value: Json) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _list(value: Json) -> bool:
    return isinstance(value, list)


def _draft(value: Json) -> bool:
    return isinstance(value, str) and _DRAFT.fullmatch(value) is not None


_SHAPES: Final[dict[str, Callable[[Json], bool]]] = {
    "type": _type, "enum": _values, "required": _names, "properties": _named, "$defs": _named, "definitions": _named,
    "patternProperties": _patterned, "additionalProperties": _schema_or_flag, "items": _schema, "not": _schema,
    "allOf": _schemas, "anyOf": _schemas, "oneOf": _schemas, "$ref": _reference, "pattern": _pattern, "format": _text,
    "minLength": _count, "maxLength": _count, "minItems": _count, "maxItems": _count, "minProperties": _count,
    "maxProperties": _count, "minimum": _number, "maximum": _number, "multipleOf": _positive, "uniqueItems": _flag,
    "title": _text, "description": _text, "if": _schema, "then": _schema, "else": _schema, "contains": _schema,
    "propertyNames": _schema, "dependentSchemas": _named, "dependentRequired": _brings, "dependencies": _brings,
    "prefixItems": _schemas, "additionalItems": _schema_or_flag, "unevaluatedItems": _schema_or_flag,
    "unevaluatedProperties": _schema_or_flag, "minContains": _count, "maxContains": _count, "$schema": _draft,
    "id": _text, "$comment": _text, "examples": _list, "readOnly": _flag, "writeOnly": _flag, "deprecated": _flag,
    "contentEncoding": _text, "contentMediaType": _text,
}  # fmt: skip
LEFT_TO_META_SCHEMAS: Final = frozenset(
    ("$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary", "const",
     "contentSchema", "default", "exclusiveMinimum", "exclusiveMaximum")
)  # fmt: skip
"""What some draft looks at, too. Of all other names none says anything: they may hold any value."""
