"""What may become a grammar: checks on a schema before any grammar engine sees it, and its normal form.

Knows JSON, the meta-schemas, limits, and keywords that engines read otherwise than jsonschema does. Does not know
grammar engines. Every refusal names a JSON pointer, a keyword and a hint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args

import jsonschema
import jsonschema.protocols
import jsonschema.validators

from .errors import MalformedSchema, SchemaRefused, SchemaTooComplex, UnsupportedKeyword
from .formats import NAMED, VALUES
from .satisfiable import check_recursion
from .walk import ANNOTATIONS, Document, Where, below, draft_of, mapped, pointer, steps

Json = Any
Formats = Literal["strict", "annotate"]
FORMATS: Final[tuple[Formats, ...]] = get_args(Formats)
DEPTH: Final = 96
"""Levels of JSON. The grammar engine's own limit is a little above."""
NODES: Final = 100_000
TEXT: Final = 2_000_000
"""Characters in all strings together."""
CHECK_SECONDS: Final = 0.5
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
    _check_json(document)
    _check_draft(document)
    kind, seen, deadline = draft_of(document), set[str](), time.perf_counter() + CHECK_SECONDS
    meta = _meta(kind)
    for where, schema in _everything(document):
        if time.perf_counter() > deadline:
            raise SchemaTooComplex(
                "", "", f"checking it took more than {CHECK_SECONDS} s; leave out what is not needed"
            )
        alone = _alone(schema)
        if (text := repr(alone)) not in seen:
            seen.add(text)
            _check_keywords(meta, where, alone)


def _check_keywords(meta: jsonschema.protocols.Validator, where: Where, schema: Json) -> None:
    error = next(iter(meta.iter_errors(schema)), None)
    if error is not None:
        place = (*where, *error.absolute_path)
        raise MalformedSchema(pointer(place), _keyword(place), _path(place), _short(error.message))


@cache
def _meta(kind: type[jsonschema.protocols.Validator]) -> jsonschema.protocols.Validator:
    """The validator of a draft's meta-schema, which compares long lists in linear time."""
    meta: Any = jsonschema.validators.validator_for(kind.META_SCHEMA, default=kind)
    meta = jsonschema.validators.extend(meta, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]
    validator: jsonschema.protocols.Validator = meta(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    return validator


def _everything(document: dict[str, Json]) -> Iterator[tuple[Where, Json]]:
    """Every schema of the document, also those that stand where only a reference finds them."""
    whole, done = Document(document), set[int]()
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, schema = stack.pop()
        if id(schema) in done or not isinstance(schema, dict):
            continue
        done.add(id(schema))
        yield where, schema
        stack.extend((where + step, child) for step, child in below(schema))
        with suppress(LookupError, TypeError, ValueError):
            stack.append((tuple(steps(schema["$ref"])), whole.at(schema["$ref"])))


def _alone(schema: dict[str, Json]) -> dict[str, Json]:
    """A schema whose subschemas are empty: they are checked by themselves."""
    made = mapped(schema, lambda child: {} if isinstance(child, dict) else child)
    for key in _NAMING & set(made):
        if isinstance(made[key], dict):
            made[key] = {name: child for name, child in made[key].items() if child != {}}
    return {key: value for key, value in made.items() if key not in ("const", "default")}


_NAMING: Final = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
"""Keywords whose names may be any text, so that only what they hold has to be checked."""


def admitted(document: dict[str, Json], formats: Formats = "strict") -> Admitted:
    """The normal form of a checked document.

    Raises UnsatisfiableSchema (recursion without end) and UnsupportedKeyword (what engines read too loosely).
    """
    check_recursion(document)
    _check_counts(document)
    _check_numbers(document)
    notes: list[str] = []
    made = _normal(document, draft_of(document), formats, (), notes)
    return Admitted({key: value for key, value in made.items() if key != "x-guidance"}, tuple(notes))


def _check_json(document: Json) -> None:
    nodes = text = 0
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, value = stack.pop()
        nodes += 1
        if isinstance(value, str):
            text += len(value)
            _check_text(where, value)
        elif isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str):
                    raise _not_json(where, f"a JSON Schema must be JSON, and key {key!r} is not a string")
                _check_text(where, key)
                stack.append(((*where, key), child))
        elif isinstance(value, list):
            stack.extend(((*where, at), child) for at, child in enumerate(value))
        elif not (
            value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
        ):
            raise _not_json(where, f"a JSON Schema must be JSON, and {_short(repr(value))} is not")
        if len(where) > DEPTH:
            raise _too_complex(where[:8], f"nested more than {DEPTH} levels deep; use $ref for parts that repeat")
        if nodes > NODES or text > TEXT:
            raise _too_complex(
                where[:1], f"more than {NODES:,} values or {TEXT:,} characters; leave out what the step does not need"
            )


def _check_text(where: Where, text: str) -> None:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _not_json(where, f"{_short(ascii(text))} holds half a surrogate pair, which is no character")


def _check_draft(document: dict[str, Json]) -> None:
    named = document.get("$schema", "")
    if not isinstance(named, str):
        raise MalformedSchema("/$schema", "$schema", "$.$schema", f"{named!r} is not a string")
    unknown = named and jsonschema.validators.validator_for(document, default=jsonschema.Draft3Validator)
    if unknown is jsonschema.Draft3Validator:
        hint = f"{_short(named)!r} is none of {_DRAFTS}; name one, or none"
        raise UnsupportedKeyword("/$schema", "$schema", hint, checkable=False)


def _unique(_: Any, wanted: bool, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    if wanted and isinstance(value, list) and len(set(map(repr, value))) < len(value):
        yield jsonschema.ValidationError(f"{_short(repr(value))} has non-unique elements")


def _normal(schema: Json, kind: Any, formats: Formats, where: Where, notes: list[str]) -> Json:
    """Without annotations and keywords that hold nothing, and, where asked for, without formats that nobody checks."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Json] = {}
    # Drafts up to 7 ignore what stands beside a reference.
    alone = "$ref" in schema and "unevaluatedItems" not in kind.VALIDATORS
    for key, value in schema.items():
        if key in ANNOTATIONS or (alone and key != "$ref" and key in kind.VALIDATORS):
            continue
        if key == "format" and formats == "annotate" and _unchecked(value, kind):
            notes.append(f"format {value!r} at {pointer((*where, key))} is not held: nobody here checks it")
            continue
        made[key] = _normal_below(key, value, kind, formats, (*where, key), notes)
    return made


def _normal_below(key: str, value: Json, kind: Any, formats: Formats, where: Where, notes: list[str]) -> Json:
    if key in VALUES:
        return value
    if isinstance(value, list):
        return [_normal(child, kind, formats, (*where, at), notes) for at, child in enumerate(value)]
    if (key in NAMED or key == "dependencies") and isinstance(value, dict):
        return {name: _normal(child, kind, formats, (*where, name), notes) for name, child in value.items()}
    return _normal(value, kind, formats, where, notes)


def _unchecked(format: Json, kind: Any) -> bool:
    return format not in _ENGINE_FORMATS and format not in kind.FORMAT_CHECKER.checkers


def _check_counts(document: Json) -> None:
    """A grammar may write a key twice, which readers count once: at least n needs n required keys, or no open ones."""
    for where, schema in _schemas(document):
        least = schema.get("minProperties", 0)
        if least <= max(1, len(set(schema.get("required", ())))):
            continue
        if schema.get("additionalProperties") is not False or schema.get("patternProperties"):
            raise UnsupportedKeyword(
                pointer((*where, "minProperties")),
                "minProperties",
                "open keys could be written twice and count once; list them in required, or close the object",
            )


def _check_numbers(document: Json) -> None:
    for where, schema in _schemas(document):
        for key, value in schema.items():
            if key not in ANNOTATIONS and (number := _beyond(value if key in VALUES else [value])) is not None:
                raise UnsupportedKeyword(
                    pointer((*where, key)), key, f"{_short(str(number))} is beyond 64 bits; use a smaller number"
                )


def _beyond(values: Json) -> int | None:
    listed = values if isinstance(values, list) else [values]
    return next((v for v in listed if isinstance(v, int) and not -(2**63) <= v < 2**63), None)


def _schemas(document: Json) -> Iterator[tuple[Where, dict[str, Json]]]:
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


def _too_complex(where: Where, hint: str) -> SchemaRefused:
    return SchemaTooComplex(pointer(where), _keyword(where), hint)


def _keyword(where: Where) -> str:
    return next((step for step in reversed(where) if isinstance(step, str)), "")


def _short(text: str) -> str:
    return text.splitlines()[0][:200] if text else text
