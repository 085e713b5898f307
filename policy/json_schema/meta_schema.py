"""What the meta-schemas of drafts 4 to 2020-12 take, keyword by keyword.

Knows the shapes of common keywords that every draft takes: asking a meta-schema through jsonschema takes about a
hundred times as long, so only what has no such shape is left to it. Does not know limits, or what a schema means.
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


def check_keywords(meta: jsonschema.protocols.Validator, where: Where, schema: Json) -> None:
    error = next(iter(meta.iter_errors(schema)), None)
    if error is not None:
        place = (*where, *error.absolute_path)
        meant = [_MEANT[name] for name in _listed(error.instance) if name in _MEANT] if place[-1:] == ("type",) else []
        hint = f"; write {meant[0]}" if meant else ""
        raise MalformedSchema(pointer(place), keyword_of(place), path_of(place), short(error.message) + hint)


_MEANT: Final = {
    "dict": "'object'", "float": "'number'", "double": "'number'", "int": "'integer'", "long": "'integer'",
    "str": "'string'", "list": "'array'", "tuple": "'array'", "set": "'array'", "bool": "'boolean'", "None": "'null'",
    "any": "no type at all",
}  # fmt: skip
"""What names of types in other dialects are in JSON Schema."""


def _listed(value: Json) -> list[str]:
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


@cache
def meta_of(kind: type[jsonschema.protocols.Validator]) -> jsonschema.protocols.Validator:
    """The validator of a draft's meta-schema, which compares long lists in linear time."""
    meta: Any = jsonschema.validators.validator_for(kind.META_SCHEMA, default=kind)
    meta = jsonschema.validators.extend(meta, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]
    validator: jsonschema.protocols.Validator = meta(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    return validator


def every_part(document: dict[str, Json]) -> Iterator[tuple[Where, Json, type[jsonschema.protocols.Validator]]]:
    """Every schema of the document and its draft, also those that stand where only a reference finds them."""
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


def alone(schema: dict[str, Json], old: bool) -> dict[str, Json]:
    """A schema whose subschemas are empty: they are checked by themselves. Booleans are schemas, save in old drafts."""
    made = mapped(schema, lambda child: child if old and isinstance(child, bool) else {})
    for key in _NAMING & set(made):
        if isinstance(made[key], dict):
            made[key] = {name: child for name, child in made[key].items() if child != {}}
    for key in _LISTING & set(made):
        if isinstance(made[key], list) and {} in made[key]:
            made[key] = [{}, *(child for child in made[key] if child != {})]
    return {key: value for key, value in made.items() if key not in ("const", "default")}


_NAMING: Final = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
"""Keywords whose names may be any text, so that only what they hold has to be checked."""
_LISTING: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))


def _unique(_: Any, wanted: bool, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    if wanted and isinstance(value, list) and len(set(map(repr, value))) < len(value):
        yield jsonschema.ValidationError(f"{short(repr(value))} has non-unique elements")
