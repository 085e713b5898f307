"""Checks of a schema against the meta-schemas of drafts 4 to 2020-12, keyword by keyword.

Knows the values of common keywords that every draft accepts, because validating against a meta-schema with jsonschema
takes about a hundred times as long; only other values are left to it. Does not know limits, or what a schema means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from math import isfinite
from typing import Any, Final

import jsonschema
import jsonschema.protocols
import jsonschema.validators

from ..errors import MalformedSchema
from .document import Document, Where, below, draft_of, mapped, pointer, steps
from .refusals import keyword_of, path_of, short

Json = Any
_TYPES: Final = frozenset(("null", "boolean", "object", "array", "string", "integer", "number"))
_DRAFT: Final = re.compile(r"https?://json-schema\.org/[\w./-]+#?", re.ASCII)
_REFERENCE: Final = re.compile(r"#(?:/[\w.$-]*)*", re.ASCII)


def fits_every_draft(schema: dict[str, Json]) -> bool:
    """Whether every meta-schema accepts each keyword of a schema whose subschemas are empty."""
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


def _dependents(value: Json) -> bool:
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
    "propertyNames": _schema, "dependentSchemas": _named, "dependentRequired": _dependents, "dependencies": _dependents,
    "prefixItems": _schemas, "additionalItems": _schema_or_flag, "unevaluatedItems": _schema_or_flag,
    "unevaluatedProperties": _schema_or_flag, "minContains": _count, "maxContains": _count, "$schema": _draft,
    "id": _text, "$comment": _text, "examples": _list, "readOnly": _flag, "writeOnly": _flag, "deprecated": _flag,
    "contentEncoding": _text, "contentMediaType": _text,
}  # fmt: skip
LEFT_TO_META_SCHEMAS: Final = frozenset(
    ("$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary", "const",
     "contentSchema", "default", "exclusiveMinimum", "exclusiveMaximum")
)  # fmt: skip
"""Keywords that the meta-schema of some draft checks and `_SHAPES` does not. A keyword in neither may have any value,
because no draft knows it."""


def check_keywords(meta: jsonschema.protocols.Validator, where: Where, schema: Json) -> None:
    """Raises MalformedSchema where the meta-schema refuses `schema`. `where`: its path in the document."""
    error = next(iter(meta.iter_errors(schema)), None)
    if error is not None:
        place = (*where, *error.absolute_path)
        names = _listed(error.instance) if place[-1:] == ("type",) else []
        meant = next((_TYPE_NAMES[name] for name in names if name in _TYPE_NAMES), None)
        hint = f"; write {meant}" if meant else ""
        raise MalformedSchema(pointer(place), keyword_of(place), path_of(place), short(error.message) + hint)


_TYPE_NAMES: Final = {
    "dict": "'object'", "float": "'number'", "double": "'number'", "int": "'integer'", "long": "'integer'",
    "str": "'string'", "list": "'array'", "tuple": "'array'", "set": "'array'", "bool": "'boolean'", "None": "'null'",
    "any": "no type at all",
}  # fmt: skip
"""JSON Schema's names for types of other languages, for hints."""


def _listed(value: Json) -> list[str]:
    """The texts of a value that is a text or a list."""
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


@cache
def meta_of(kind: type[jsonschema.protocols.Validator]) -> jsonschema.protocols.Validator:
    """The validator of a draft's meta-schema, with a check of `uniqueItems` in linear time."""
    meta: Any = jsonschema.validators.validator_for(kind.META_SCHEMA, default=kind)
    meta = jsonschema.validators.extend(meta, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]
    validator: jsonschema.protocols.Validator = meta(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    return validator


def every_part(document: dict[str, Json]) -> Iterator[tuple[Where, Json, type[jsonschema.protocols.Validator]]]:
    """Every schema of a document with its path and draft, also schemas that only a reference reaches."""
    whole, done = Document(document), set[int]()
    stack: list[tuple[Where, Json, type[jsonschema.protocols.Validator]]] = [((), document, draft_of(document))]
    while stack:
        where, schema, kind = stack.pop()
        if id(schema) in done or not isinstance(schema, dict):
            continue
        done.add(id(schema))
        if isinstance(schema.get("$schema"), str):
            kind = draft_of(schema)
        yield where, schema, kind
        stack.extend((where + step, child, kind) for step, child in below(schema))
        with suppress(LookupError, TypeError, ValueError):
            stack.append((tuple(steps(schema["$ref"])), whole.at(schema["$ref"]), kind))


def without_subschemas(schema: dict[str, Json], old: bool) -> dict[str, Json]:
    """`schema` with empty subschemas, because each of those is checked on its own.

    `old`: draft 4, where booleans are no schemas and are kept.
    """
    result = mapped(schema, lambda child: child if old and isinstance(child, bool) else {})
    for key in _NAMING & set(result):
        if isinstance(result[key], dict):
            result[key] = {name: child for name, child in result[key].items() if child != {}}
    for key in _LISTING & set(result):
        if isinstance(result[key], list) and {} in result[key]:
            result[key] = [{}, *(child for child in result[key] if child != {})]
    return {key: value for key, value in result.items() if key not in ("const", "default")}


_NAMING: Final = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
"""Keywords whose members may have any name, so that equal values need one check."""
_LISTING: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
"""Keywords with lists of schemas, of which equal ones need one check."""


def _unique(_: Any, wanted: bool, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    if wanted and isinstance(value, list) and len(set(map(repr, value))) < len(value):
        yield jsonschema.ValidationError(f"{short(repr(value))} has non-unique elements")
