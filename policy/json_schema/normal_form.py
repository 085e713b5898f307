"""The normal form of a schema: without keywords that say nothing, or refused where a grammar engine misreads it.

Knows keywords that engines read otherwise than jsonschema does. Does not know grammar engines. Every refusal names a
JSON pointer, a keyword and a hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from ..errors import SchemaError, UnsupportedKeyword, shown
from .document import ANNOTATIONS, NAMED, VALUES, Where, draft_of, every_schema, pointer
from .number_ranges import BOUNDS, too_many_steps, unreachable, unwritable
from .open_parts import may_repeat
from .refusals import short
from .regex_dialect import is_read_alike, misread
from .satisfiable import check_recursion

Json = Any
Schemas = list[tuple[Where, dict[str, Json]]]
"""Every schema of a document and its place."""
Origin = Callable[[str], str]
"""From a pointer into the common form to one into what was given."""
Formats = Literal["annotate", "assert", "strict"]
"""What to do with formats that nobody here checks. "strict" is the old word for "assert"."""
FORMATS: Final[tuple[Formats, ...]] = get_args(Formats)
_ENGINE_FORMATS: Final = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown")
)


@dataclass(frozen=True)
class Admitted:
    """A schema in normal form, as a grammar engine may read it, and what it does not hold, in words."""

    document: Json
    notes: tuple[str, ...]


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
            return f"{short(str(number))} has more digits than the grammar engine keeps; use a shorter one or a string"
        if some_open and (text := _control(value)) is not None:
            hint = "which cannot be written where objects are open; add additionalProperties: false"
            return f"{short(ascii(text))} holds a control character without a short escape, {hint}"
    elif unreachable(key, value) or (key not in BOUNDS and isinstance(value, int) and not -(2**63) <= value < 2**63):
        return f"{short(str(value))} is beyond 64 bits; use a smaller number"
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
            hint = f"beside the name {short(ascii(odd))} with its control character, which patterns here leave out"
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
