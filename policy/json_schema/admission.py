"""Validation of a document before it is read as a schema: it must be JSON, within the limits, and a JSON Schema.

Knows JSON and limits; `meta_schema.py` knows what each draft accepts. Does not know grammar engines. Every refusal
names a JSON pointer, a keyword and a hint.
"""

from __future__ import annotations

import math
from typing import Any, Final

import jsonschema
import jsonschema.validators

from ..errors import MalformedSchema, UnsupportedKeyword, shown
from ..watchdog import OutOfTime, Overloaded, in_time
from .document import Where, heaviest
from .meta_schema import check_keywords, every_part, fits_every_draft, meta_of, without_subschemas
from .refusals import not_json, short, too_complex

Json = Any
DEPTH: Final = 96
"""Levels of nested JSON. llguidance's own limit is a little higher."""
NODES: Final = 50_000
"""Number of values in a document, its members and items included."""
TEXT: Final = 2_000_000
"""Characters in all strings together."""
BITS: Final = 1024
"""Bits of one integer, as in the largest float, because Python does not print integers of some thousands of digits."""
PATTERN: Final = 10_000
"""Characters of one regular expression."""
_MOST: Final = {"required": 4_000, "patternProperties": 64}
"""Number of names under keywords for which llguidance's time grows with the square of that number."""
CHECK_SECONDS: Final = 0.045
"""CPU seconds that checking a document against its meta-schema may take."""
_DRAFTS: Final = "drafts 4, 6, 7, 2019-09 and 2020-12"


def check_document(document: dict[str, Json]) -> None:
    """Raises MalformedSchema where `document` is not a JSON Schema, SchemaTooComplex where it is beyond a limit."""
    check_json(document)
    _check_draft(document)
    try:
        in_time(lambda: _check_against_meta_schema(document), CHECK_SECONDS, kind="check")
    except Overloaded as error:
        raise too_complex((), str(error)) from None
    except OutOfTime as error:
        where, hint = heaviest(document), f"checking: {error}; leave out what is not needed"
        raise too_complex(where, hint) from None


def _check_against_meta_schema(document: dict[str, Json]) -> None:
    """Raises MalformedSchema for a schema that its draft's meta-schema refuses; equal schemas are checked once."""
    seen = set[tuple[type, str]]()
    for where, schema, kind in every_part(document):
        bare = without_subschemas(schema, "const" not in kind.VALIDATORS)
        _check_sizes(where, schema)
        if not fits_every_draft(bare) and (key := (kind, repr(bare))) not in seen:
            seen.add(key)
            check_keywords(meta_of(kind), where, bare)


def _check_sizes(where: Where, schema: dict[str, Json]) -> None:
    """Raises SchemaTooComplex for keywords beyond a limit, and MalformedSchema for a `$ref` that is no text."""
    if not isinstance(schema.get("$ref", ""), str):
        raise not_json((*where, "$ref"), f"{short(repr(schema['$ref']))} is not a string")
    for key, most in _MOST.items():
        if isinstance(names := schema.get(key), dict | list) and len(names) > most:
            raise too_complex((*where, key), f"{len(names):,} names; at most {most:,} are read")
    named = schema.get("patternProperties")
    patterns = [("pattern", schema.get("pattern"))]
    patterns += [("patternProperties", name) for name in named] if isinstance(named, dict) else []
    for key, pattern in patterns:
        if isinstance(pattern, str) and len(pattern) > PATTERN:
            raise too_complex((*where, key), f"a pattern of {len(pattern):,} characters; at most {PATTERN:,} are read")


def check_json(document: Json) -> None:
    """Raises MalformedSchema where `document` is not JSON, SchemaTooComplex where it is beyond a limit of size."""
    nodes, text = 1, 0
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, value = stack.pop()
        if len(where) > DEPTH:
            raise too_complex(where[:8], f"nested more than {DEPTH} levels deep; use $ref for parts that repeat")
        is_object = isinstance(value, dict)
        nodes += len(value)
        if nodes > NODES:
            raise too_complex(where[:1], f"more than {NODES:,} values; {_LEAVE_OUT}")
        for step, child in value.items() if is_object else enumerate(value):
            if is_object:
                text += _checked_key(where, step)
            if isinstance(child, str):
                text += len(child)
                _check_text((*where, step), child)
            elif isinstance(child, dict | list):
                stack.append(((*where, step), child))
            elif not _is_json(child):
                raise not_json((*where, step), f"a JSON Schema must be JSON, and {shown(child)} is not")
            elif isinstance(child, int) and child.bit_length() > BITS:
                raise too_complex(
                    (*where, step), f"an integer of {child.bit_length():,} bits; at most {BITS:,} are read"
                )
            if text > TEXT:
                raise too_complex((*where, step)[:1], f"more than {TEXT:,} characters; {_LEAVE_OUT}")


_LEAVE_OUT: Final = "leave out what the step does not need"


def _is_json(value: Json) -> bool:
    """Whether a value that is no string, list or dict is JSON."""
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _checked_key(where: Where, key: Json) -> int:
    """The length of an object's key. Raises MalformedSchema where it is no text."""
    if not isinstance(key, str):
        raise not_json(where, f"a JSON Schema must be JSON, and key {shown(key)} is not a string")
    _check_text(where, key)
    return len(key)


def _check_text(where: Where, text: str) -> None:
    """Raises MalformedSchema for half a surrogate pair."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise not_json(where, f"{short(ascii(text))} holds half a surrogate pair, which is no character")


def _check_draft(document: dict[str, Json]) -> None:
    """Raises MalformedSchema or UnsupportedKeyword where `$schema` names no draft that is known."""
    named = document.get("$schema", "")
    if not isinstance(named, str):
        raise MalformedSchema("/$schema", "$schema", "$.$schema", f"{named!r} is not a string")
    try:
        unknown = named and jsonschema.validators.validator_for(document, default=jsonschema.Draft3Validator)
    except ValueError:  # not a URI
        unknown = jsonschema.Draft3Validator
    if unknown is jsonschema.Draft3Validator:
        hint = f"{short(named)!r} is none of {_DRAFTS}; name one, or none"
        raise UnsupportedKeyword("/$schema", "$schema", hint, checkable=False)
