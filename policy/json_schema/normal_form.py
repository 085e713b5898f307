"""Normal form of a schema: no keywords without effect; keywords that a grammar engine would misread are refused.

Knows keywords that grammar engines read differently from jsonschema. Does not know grammar engines. Every refusal names
a JSON pointer, a keyword and a hint.
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
"""Every schema of a document and its path."""
Origin = Callable[[str], str]
"""Maps a pointer into the common form to one into the schema as given."""
Formats = Literal["annotate", "assert", "strict"]
"""How formats that nothing here checks are treated. "strict" is the old name of "assert"."""
FORMATS: Final[tuple[Formats, ...]] = get_args(Formats)
_ENGINE_FORMATS: Final = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown")
)
"""Formats that llguidance knows."""


@dataclass(frozen=True)
class NormalForm:
    """A schema in normal form, and notes on what it does not enforce."""

    document: Json
    notes: tuple[str, ...]


def formats_of(name: str) -> Formats:
    """The treatment of formats that `name` (perhaps the old one) means. Raises SchemaError where it means none."""
    found: Formats | None = next((known for known in FORMATS if known == name), None)
    if found is None:
        raise SchemaError(f"formats={shown(name)}: expected one of {', '.join(FORMATS[:2])}")
    return "assert" if found == "strict" else found


def normalized(document: dict[str, Json], formats: Formats = "annotate", origin: Origin = str) -> NormalForm:
    """The normal form of a validated document in its common form. `origin`: how notes name its pointers.

    Raises UnsatisfiableSchema (infinite recursion) and UnsupportedKeyword (what grammar engines would misread).
    """
    check_recursion(document)
    schemas = list(every_schema(document))
    _check_values(schemas, may_repeat(document))
    _check_dialect(schemas)
    notes: list[str] = []
    result = _normal(document, _Reading(draft_of(document), formats, origin, notes), ())
    return NormalForm({key: value for key, value in result.items() if key != "x-guidance"}, tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, slots=True)
class _Reading:
    """Settings for all parts of one document. `kind`: its draft's validator class; `notes`: filled on the way."""

    kind: Any
    formats: Formats
    origin: Origin
    notes: list[str]

    def leaves_out(self, format: Json, where: Where) -> bool:
        """Whether a format is left out because nothing checks it; adds a note."""
        if self.formats != "annotate" or format in _ENGINE_FORMATS or format in self.kind.FORMAT_CHECKER.checkers:
            return False
        place = self.origin(pointer(where))
        self.notes.append(f"format {format!r} at {place} is not enforced: nothing here checks it")
        return True


def _normal(schema: Json, reading: _Reading, where: Where) -> Json:
    """`schema` without annotations, ignored keywords and, with "annotate", formats that nothing checks."""
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Json] = {}
    # Drafts up to 7 ignore keywords next to `$ref`.
    kind = reading.kind
    alone = "$ref" in schema and "unevaluatedItems" not in kind.VALIDATORS
    for key, value in schema.items():
        if key in ANNOTATIONS or (alone and key != "$ref" and key in kind.VALIDATORS):
            continue
        if key == "format" and reading.leaves_out(value, (*where, key)):
            continue
        result[key] = _normal_below(key, value, reading, (*where, key))
    return result


def _normal_below(key: str, value: Json, reading: _Reading, where: Where) -> Json:
    if key in VALUES:
        return value
    if isinstance(value, list):
        return [_normal(child, reading, (*where, at)) for at, child in enumerate(value)]
    if (key in NAMED or key == "dependencies") and isinstance(value, dict):
        return {name: _normal(child, reading, (*where, name)) for name, child in value.items()}
    return _normal(value, reading, where)


def _check_values(schemas: Schemas, some_open: bool) -> None:
    """Raises UnsupportedKeyword for values and numbers that no grammar can write. `some_open`: some object is open."""
    for where, schema in schemas:
        for key, value in schema.items():
            if key not in ANNOTATIONS and (reason := _unwritable_reason(key, value, some_open)) is not None:
                raise UnsupportedKeyword(pointer((*where, key)), key, reason)
    multiples = [(where, schema["multipleOf"]) for where, schema in schemas if _is_step(schema.get("multipleOf"))]
    together = any({"allOf", "anyOf", "oneOf", "$ref"} & set(schema) for _, schema in schemas)
    if together and too_many_steps([step for _, step in multiples]):
        hint = "several that may hold for one number are beyond 32 bits; use smaller ones"
        raise UnsupportedKeyword(pointer((*multiples[-1][0], "multipleOf")), "multipleOf", hint)


def _is_step(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _unwritable_reason(key: str, value: Json, some_open: bool) -> str | None:
    """The reason why no grammar can write a constant or reach a bound; None where one can."""
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
    """A text in a value, keys aside, with a control character that has no short escape; None without any."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict | list):
            stack.extend(one.values() if isinstance(one, dict) else one)
        elif isinstance(one, str) and _UNWRITABLE.search(one) is not None:
            return one
    return None


_UNWRITABLE: Final = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Control characters without a short escape in JSON."""


def _check_dialect(schemas: Schemas) -> None:
    """Raises UnsupportedKeyword for patterns that Python's `re` and llguidance read differently."""
    odd = next((name for _, schema in schemas for name in _names_in(schema) if _UNWRITABLE.search(name)), None)
    for where, schema in schemas:
        if odd is not None and "patternProperties" in schema:
            hint = f"next to the name {short(ascii(odd))} with its control character, which patterns do not match here"
            raise UnsupportedKeyword(pointer((*where, "patternProperties")), "patternProperties", hint)
        patterns = schema.get("patternProperties")
        others = schema.get("additionalProperties", True)
        if isinstance(patterns, dict) and others not in (True, False, {}) and not all(map(_is_read_alike, patterns)):
            hint = "next to a schema for other names, \\w, \\d and \\s differ between readers; write [0-9A-Za-z_]"
            raise UnsupportedKeyword(pointer((*where, "patternProperties")), "patternProperties", hint)
        names = [("patternProperties", name) for name in patterns] if isinstance(patterns, dict) else []
        for key, pattern in [("pattern", schema.get("pattern")), *names]:
            if isinstance(pattern, str) and (reason := misread(pattern, quoted=True)) is not None:
                raise UnsupportedKeyword(pointer((*where, key)), key, reason)


def _is_read_alike(pattern: str) -> bool:
    """Whether all dialects read the classes of a pattern alike; True too for patterns that are refused later."""
    return misread(pattern, quoted=True) is not None or is_read_alike(pattern)


def _names_in(schema: dict[str, Json]) -> Iterator[str]:
    """Names of properties in `properties` and `required`."""
    for key in ("properties", "required"):
        if isinstance(named := schema.get(key), dict | list):
            yield from named
