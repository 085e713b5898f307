"""What may become a grammar: checks on a schema before any grammar engine sees it, and its normal form.

Knows JSON, the meta-schemas, limits, and keywords that engines read otherwise than jsonschema does. Does not know
grammar engines. Every refusal names a JSON pointer, a keyword and a hint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args

import jsonschema
import jsonschema.protocols
import jsonschema.validators

from .dialect import is_read_alike, misread
from .errors import MalformedSchema, SchemaError, SchemaRefused, SchemaTooComplex, UnsupportedKeyword, shown
from .formats import NAMED, VALUES
from .in_time import Crowded, OutOfTime, in_time
from .keys import may_repeat
from .numeric import BOUNDS, too_many_steps, unreachable, unwritable
from .satisfiable import check_recursion
from .shapes import fits_every_draft
from .walk import ANNOTATIONS, Document, Where, below, draft_of, heaviest, mapped, pointer, steps

Json = Any
Schemas = list[tuple[Where, dict[str, Json]]]
"""Every schema of a document and its place."""
Origin = Callable[[str], str]
"""From a pointer into the common form to one into what was given."""
Formats = Literal["annotate", "assert", "strict"]
"""What to do with formats that nobody here checks. "strict" is the old word for "assert"."""
FORMATS: Final[tuple[Formats, ...]] = get_args(Formats)
DEPTH: Final = 96
"""Levels of JSON. The grammar engine's own limit is a little above."""
NODES: Final = 50_000
TEXT: Final = 2_000_000
"""Characters in all strings together."""
BITS: Final = 1024
"""Of one integer, as in the largest float. Python writes no integer of some thousands of digits."""
PATTERN: Final = 10_000
"""Characters of one regular expression."""
_MOST: Final = {"required": 4_000, "patternProperties": 64}
"""Names, where the grammar engine's time grows with the square of their number."""
CHECK_SECONDS: Final = 0.045
"""CPU time that comparing a document with its meta-schema may take."""
_ENGINE_FORMATS: Final = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown")
)
_DRAFTS: Final = "drafts 4, 6, 7, 2019-09 and 2020-12"


@dataclass(frozen=True)
class Admitted:
    """A schema in normal form, as a grammar engine may read it, and what it does not hold, in words."""

    document: Json
    notes: tuple[str, ...]


def check_document(document: dict[str, Json]) -> None:
    """Raises MalformedSchema where `document` is not a JSON Schema, SchemaTooComplex where it is beyond a limit."""
    check_json(document)
    _check_draft(document)
    try:
        in_time(lambda: _check_against_meta_schema(document), CHECK_SECONDS, kind="check")
    except Crowded as error:
        raise too_complex((), str(error)) from None
    except OutOfTime as error:
        where, hint = heaviest(document), f"checking: {error}; leave out what is not needed"
        raise too_complex(where, hint) from None


def _check_against_meta_schema(document: dict[str, Json]) -> None:
    seen = set[tuple[type, str]]()
    for where, schema, kind in _everything(document):
        alone = _alone(schema, "const" not in kind.VALIDATORS)
        _check_sizes(where, schema)
        if not fits_every_draft(alone) and (key := (kind, repr(alone))) not in seen:
            seen.add(key)
            _check_keywords(_meta(kind), where, alone)


def _check_sizes(where: Where, schema: dict[str, Json]) -> None:
    """Raises SchemaTooComplex before anybody is kept busy, and MalformedSchema where draft 4 does not look."""
    if not isinstance(schema.get("$ref", ""), str):
        raise _not_json((*where, "$ref"), f"{_short(repr(schema['$ref']))} is not a string")
    for key, most in _MOST.items():
        if isinstance(held := schema.get(key), dict | list) and len(held) > most:
            raise too_complex((*where, key), f"{len(held):,} names; at most {most:,} are read")
    named = schema.get("patternProperties")
    patterns = [("pattern", schema.get("pattern"))]
    patterns += [("patternProperties", name) for name in named] if isinstance(named, dict) else []
    for key, pattern in patterns:
        if isinstance(pattern, str) and len(pattern) > PATTERN:
            raise too_complex((*where, key), f"a pattern of {len(pattern):,} characters; at most {PATTERN:,} are read")


def _check_keywords(meta: jsonschema.protocols.Validator, where: Where, schema: Json) -> None:
    error = next(iter(meta.iter_errors(schema)), None)
    if error is not None:
        place = (*where, *error.absolute_path)
        meant = [_MEANT[name] for name in _listed(error.instance) if name in _MEANT] if place[-1:] == ("type",) else []
        hint = f"; write {meant[0]}" if meant else ""
        raise MalformedSchema(pointer(place), _keyword(place), _path(place), _short(error.message) + hint)


_MEANT: Final = {
    "dict": "'object'", "float": "'number'", "double": "'number'", "int": "'integer'", "long": "'integer'",
    "str": "'string'", "list": "'array'", "tuple": "'array'", "set": "'array'", "bool": "'boolean'", "None": "'null'",
    "any": "no type at all",
}  # fmt: skip
"""What names of types in other dialects are in JSON Schema."""


def _listed(value: Json) -> list[str]:
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


@cache
def _meta(kind: type[jsonschema.protocols.Validator]) -> jsonschema.protocols.Validator:
    """The validator of a draft's meta-schema, which compares long lists in linear time."""
    meta: Any = jsonschema.validators.validator_for(kind.META_SCHEMA, default=kind)
    meta = jsonschema.validators.extend(meta, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]
    validator: jsonschema.protocols.Validator = meta(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    return validator


def _everything(document: dict[str, Json]) -> Iterator[tuple[Where, Json, type[jsonschema.protocols.Validator]]]:
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


def _alone(schema: dict[str, Json], old: bool) -> dict[str, Json]:
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


def formats_of(word: str) -> Formats:
    """The word, which may be an old one. Raises SchemaError where it is none."""
    found: Formats | None = next((known for known in FORMATS if known == word), None)
    if found is None:
        raise SchemaError(f"formats={shown(word)}: expected one of {', '.join(FORMATS[:2])}")
    return "assert" if found == "strict" else found


def admitted(document: dict[str, Json], formats: Formats = "annotate", origin: Origin = str) -> Admitted:
    """The normal form of a checked document in its common form. `origin`: its places, as notes should name them.

    Raises UnsatisfiableSchema (recursion without end) and UnsupportedKeyword (what engines read too loosely).
    """
    check_recursion(document)
    schemas = list(every_schema(document))
    _check_values(schemas, may_repeat(document))
    _check_dialect(schemas)
    notes: list[str] = []
    made = _normal(document, _Reading(draft_of(document), formats, origin, notes), ())
    return Admitted({key: value for key, value in made.items() if key != "x-guidance"}, tuple(dict.fromkeys(notes)))


def check_json(document: Json) -> None:
    """Raises MalformedSchema where `document` is not JSON, SchemaTooComplex where it is beyond a limit of size."""
    nodes, text = 1, 0
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, value = stack.pop()
        if len(where) > DEPTH:
            raise too_complex(where[:8], f"nested more than {DEPTH} levels deep; use $ref for parts that repeat")
        named = isinstance(value, dict)
        nodes += len(value)
        if nodes > NODES:
            raise too_complex(where[:1], f"more than {NODES:,} values; {_LEAVE_OUT}")
        for step, child in value.items() if named else enumerate(value):
            if named:
                text += _checked_key(where, step)
            if isinstance(child, str):
                text += len(child)
                _check_text((*where, step), child)
            elif isinstance(child, dict | list):
                stack.append(((*where, step), child))
            elif not _is_json(child):
                raise _not_json((*where, step), f"a JSON Schema must be JSON, and {shown(child)} is not")
            elif isinstance(child, int) and child.bit_length() > BITS:
                raise too_complex(
                    (*where, step), f"an integer of {child.bit_length():,} bits; at most {BITS:,} are read"
                )
            if text > TEXT:
                raise too_complex((*where, step)[:1], f"more than {TEXT:,} characters; {_LEAVE_OUT}")


_LEAVE_OUT: Final = "leave out what the step does not need"


def _is_json(value: Json) -> bool:
    """Of values that are neither text nor hold others."""
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _checked_key(where: Where, key: Json) -> int:
    if not isinstance(key, str):
        raise _not_json(where, f"a JSON Schema must be JSON, and key {shown(key)} is not a string")
    _check_text(where, key)
    return len(key)


def _check_text(where: Where, text: str) -> None:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _not_json(where, f"{_short(ascii(text))} holds half a surrogate pair, which is no character")


def _check_draft(document: dict[str, Json]) -> None:
    named = document.get("$schema", "")
    if not isinstance(named, str):
        raise MalformedSchema("/$schema", "$schema", "$.$schema", f"{named!r} is not a string")
    try:
        unknown = named and jsonschema.validators.validator_for(document, default=jsonschema.Draft3Validator)
    except ValueError:  # no address at all
        unknown = jsonschema.Draft3Validator
    if unknown is jsonschema.Draft3Validator:
        hint = f"{_short(named)!r} is none of {_DRAFTS}; name one, or none"
        raise UnsupportedKeyword("/$schema", "$schema", hint, checkable=False)


def _unique(_: Any, wanted: bool, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    if wanted and isinstance(value, list) and len(set(map(repr, value))) < len(value):
        yield jsonschema.ValidationError(f"{_short(repr(value))} has non-unique elements")


@dataclass(frozen=True, slots=True)
class _Reading:
    kind: Any
    formats: Formats
    origin: Origin
    notes: list[str]

    def leaves_out(self, format: Json, where: Where) -> bool:
        """Whether a format is only an annotation here; a note says so."""
        if self.formats != "annotate" or format in _ENGINE_FORMATS or format in self.kind.FORMAT_CHECKER.checkers:
            return False
        place = self.origin(pointer(where))
        self.notes.append(f"format {format!r} at {place} is not held: nobody here checks it")
        return True


def _normal(schema: Json, reading: _Reading, where: Where) -> Json:
    """Without annotations and keywords that hold nothing, and, where asked for, without formats that nobody checks."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Json] = {}
    # Drafts up to 7 ignore what stands beside a reference.
    kind = reading.kind
    alone = "$ref" in schema and "unevaluatedItems" not in kind.VALIDATORS
    for key, value in schema.items():
        if key in ANNOTATIONS or (alone and key != "$ref" and key in kind.VALIDATORS):
            continue
        if key == "format" and reading.leaves_out(value, (*where, key)):
            continue
        made[key] = _normal_below(key, value, reading, (*where, key))
    return made


def _normal_below(key: str, value: Json, reading: _Reading, where: Where) -> Json:
    if key in VALUES:
        return value
    if isinstance(value, list):
        return [_normal(child, reading, (*where, at)) for at, child in enumerate(value)]
    if (key in NAMED or key == "dependencies") and isinstance(value, dict):
        return {name: _normal(child, reading, (*where, name)) for name, child in value.items()}
    return _normal(value, reading, where)


def _check_values(schemas: Schemas, some_open: bool) -> None:
    for where, schema in schemas:
        for key, value in schema.items():
            if key not in ANNOTATIONS and (reason := _unheld(key, value, some_open)) is not None:
                raise UnsupportedKeyword(pointer((*where, key)), key, reason)
    steps_ = [(where, schema["multipleOf"]) for where, schema in schemas if _is_step(schema.get("multipleOf"))]
    together = any({"allOf", "anyOf", "oneOf", "$ref"} & set(schema) for _, schema in schemas)
    if together and too_many_steps([step for _, step in steps_]):
        hint = "several that may hold for one number are beyond 32 bits; use smaller ones"
        raise UnsupportedKeyword(pointer((*steps_[-1][0], "multipleOf")), "multipleOf", hint)


def _is_step(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _unheld(key: str, value: Json, some_open: bool) -> str | None:
    """Why no grammar can write a constant or count up to a bound; None where one can. `some_open`: some object is."""
    if key in VALUES:
        if (number := unwritable(value)) is not None:
            return f"{_short(str(number))} has more digits than the grammar engine keeps; use a shorter one or a string"
        if some_open and (text := _control(value)) is not None:
            hint = "which cannot be written where objects are open; add additionalProperties: false"
            return f"{_short(ascii(text))} holds a control character without a short escape, {hint}"
    elif unreachable(key, value) or (key not in BOUNDS and isinstance(value, int) and not -(2**63) <= value < 2**63):
        return f"{_short(str(value))} is beyond 64 bits; use a smaller number"
    return None


def _control(value: Json) -> str | None:
    """A text in a value, keys aside, that masks spell in no way: each character has one spelling."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict | list):
            stack.extend(one.values() if isinstance(one, dict) else one)
        elif isinstance(one, str) and _UNWRITABLE.search(one) is not None:
            return one
    return None


_UNWRITABLE: Final = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def _check_dialect(schemas: Schemas) -> None:
    odd = next((name for _, schema in schemas for name in _names_in(schema) if _UNWRITABLE.search(name)), None)
    for where, schema in schemas:
        if odd is not None and "patternProperties" in schema:
            hint = f"beside the name {_short(ascii(odd))} with its control character, which patterns here leave out"
            raise UnsupportedKeyword(pointer((*where, "patternProperties")), "patternProperties", hint)
        held = schema.get("patternProperties")
        others = schema.get("additionalProperties", True)
        if isinstance(held, dict) and others not in (True, False, {}) and not all(map(_is_read_alike, held)):
            hint = "beside a schema for other names, \\w, \\d and \\s are other letters elsewhere; write [0-9A-Za-z_]"
            raise UnsupportedKeyword(pointer((*where, "patternProperties")), "patternProperties", hint)
        names = [("patternProperties", name) for name in held] if isinstance(held, dict) else []
        for key, pattern in [("pattern", schema.get("pattern")), *names]:
            if isinstance(pattern, str) and (reason := misread(pattern, quoted=True)) is not None:
                raise UnsupportedKeyword(pointer((*where, key)), key, reason)


def _is_read_alike(pattern: str) -> bool:
    return misread(pattern, quoted=True) is not None or is_read_alike(pattern)


def _names_in(schema: dict[str, Json]) -> Iterator[str]:
    for key in ("properties", "required"):
        if isinstance(named := schema.get(key), dict | list):
            yield from named


def every_schema(document: Json) -> Iterator[tuple[Where, dict[str, Json]]]:
    """Every schema of a document with its place."""
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, schema = stack.pop()
        if isinstance(schema, dict):
            yield where, schema
            stack.extend((where + step, child) for step, child in below(schema))


def _not_json(where: Where, hint: str) -> SchemaRefused:
    return MalformedSchema(pointer(where), _keyword(where), _path(where), hint)


def _path(where: Where) -> str:
    steps_ = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in where)
    return ascii("$" + "".join(steps_))[1:-1][:300]


def too_complex(where: Where, hint: str) -> SchemaRefused:
    return SchemaTooComplex(pointer(where), _keyword(where), hint)


def _keyword(where: Where) -> str:
    return next((step for step in reversed(where) if isinstance(step, str)), "")


def _short(text: str) -> str:
    return text.splitlines()[0][:200] if text else text
