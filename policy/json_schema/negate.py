"""The opposite of a schema, in positive keywords.

Knows which keywords have an opposite that is itself a schema. Where one has none (patterns, formats, item rules) the
answer is None: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .disjoint import Parts, named_types, parts_of, property_of, types_of
from .document import ANNOTATIONS, Document

Json = Any
_REFERENCES: Final = 4
"""References that lead from one to the next; they could lead in a circle."""
_WORDS: Final = 600
"""Letters that the words of a forbidden list may have together."""


def negated(schema: Json, document: Document, context: Parts) -> Json | None:
    """A schema that takes exactly the values that `schema` refuses, among those that fit all of `context`.

    None where there is none in plain keywords.
    """
    if isinstance(schema, bool):
        return not schema
    if "$ref" in schema and document.reference_rules_alone:
        return _not_reference(schema["$ref"], document, context)
    cases: list[Json] = []
    for key, value in schema.items():
        if key in ANNOTATIONS or key not in document.known:
            continue
        rule = _OPPOSITES.get(key)
        case = (
            _not_others(schema, context) if key == "additionalProperties" else rule and rule(value, document, context)
        )
        if case is None:
            return None
        cases.append(case)
    return any_of(cases)


def any_of(cases: Iterable[Json]) -> Json:
    """`anyOf` without cases that nothing fits."""
    left = [case for case in cases if case is not False]
    return False if not left else True if True in left else left[0] if len(left) == 1 else {"anyOf": left}


def all_of(members: Iterable[Json]) -> Json:
    """`allOf` without members that everything fits."""
    left = [member for member in members if member not in (True, {})]
    return True if not left else False if False in left else left[0] if len(left) == 1 else {"allOf": left}


def names_of(types: Iterable[str]) -> list[str]:
    """`types` as the keyword `type` writes them."""
    left = set(types)
    return sorted(left - {"fraction", "integer"} | {"number"} if "fraction" in left else left)


def other_than(words: Sequence[str]) -> str | None:
    """A pattern for every string but `words`. None where it would be long, or a reader's `$` would read it wrongly."""
    if sum(map(len, words)) > _WORDS or any("\n" in word or len(word) > 100 for word in words):
        return None
    return f"^(?:{_tails(sorted(set(words)))})$"


def _tails(words: list[str]) -> str:
    first = sorted({word[0] for word in words if word})
    taken = [f"{_escaped(c)}(?:{_tails([word[1:] for word in words if word[:1] == c])})" for c in first]
    other = f"[^{''.join(map(_escaped, first))}][\\s\\S]*" if first else "[\\s\\S]+"
    return "|".join([*taken, other, *([] if "" in words else [""])])


def _escaped(letter: str) -> str:
    return f"\\{letter}" if letter in "\\^$.|?*+()[]{}-&~" else letter


def _not_type(names: Json, document: Document, context: Parts) -> Json | None:
    possible, refused = types_of(context, document), named_types(names)
    left = possible - refused
    if not left:
        return False
    if "fraction" in left and "integer" not in left:  # fractions alone have no name
        return None
    return {"type": names_of(left)}


def _not_values(values: list[Json], document: Document, context: Parts) -> Json | None:
    possible = types_of(context, document)
    if any(isinstance(value, kind) for value in values for kind, name in _NESTED if name in possible):
        return None
    cases: list[Json] = [{"type": names_of(plain)}] if (plain := possible & {"array", "object"}) else []
    if "null" in possible and None not in values:
        cases.append({"type": "null"})
    if "boolean" in possible:
        left = [flag for flag in (True, False) if not any(value is flag for value in values)]
        cases.append({"enum": left} if left else False)
    if "string" in possible:
        words = [value for value in values if isinstance(value, str)]
        pattern = other_than(words)
        if pattern is None:
            return None
        cases.append({"type": "string", "pattern": pattern} if words else {"type": "string"})
    if numeric := possible & {"integer", "fraction"}:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        cases += _between(sorted(set(numbers)), names_of(numeric)[0], document.old)
    return any_of(cases)


_NESTED: Final = ((list, "array"), (dict, "object"))


def _between(numbers: list[Any], kind: str, old: bool) -> list[Json]:
    """The gaps around `numbers`, as ranges."""
    if kind == "integer":
        numbers = [int(number) for number in numbers if number == int(number)]
    lows, highs = [None, *numbers], [*numbers, None]
    return [
        {"type": kind, **_edge("inimum", 1, low, kind, old), **_edge("aximum", -1, high, kind, old)}
        for low, high in zip(lows, highs, strict=True)
        if kind == "number" or low is None or high is None or high - low > 1
    ]


def _edge(name: str, step: int, number: Any, kind: str, old: bool) -> dict[str, Json]:
    if number is None:
        return {}
    plain, exclusive = f"m{name}", f"exclusiveM{name}"
    if kind == "integer":
        return {plain: number + step}
    return {plain: number, exclusive: True} if old else {exclusive: number}


def _not_required(names: list[str], _: Document, __: Parts) -> Json:
    return any_of({"type": "object", "properties": {name: False}} for name in names)


def _not_properties(properties: dict[str, Json], document: Document, context: Parts) -> Json | None:
    cases: list[Json] = []
    for name, schema in properties.items():
        known = property_of(context, name, document)
        if known is False or (isinstance(known, dict) and schema in known["allOf"]):
            continue  # absent, or held to the very same: it cannot be what differs
        inner = parts_of(known, document)
        if (case := negated(schema, document, inner)) is None:
            return None
        if case is not False:
            cases.append({"type": "object", "properties": {name: case}, "required": [name]})
    return any_of(cases)


def _not_others(schema: dict[str, Json], context: Parts) -> Json | None:
    """Some key besides the listed ones, where the context says which keys there can be at all."""
    if schema["additionalProperties"] in (True, {}):
        return False
    if schema["additionalProperties"] is not False or schema.get("patternProperties"):
        return None
    closed = [part for part in context if part and part.get("additionalProperties") is False]
    if not closed or any(part.get("patternProperties") for part in closed):
        return None
    names = [name for name in closed[0].get("properties", ()) if name not in schema.get("properties", ())]
    return any_of({"type": "object", "required": [name]} for name in names)


def _not_all(members: list[Json], document: Document, context: Parts) -> Json | None:
    found = [negated(member, document, context) for member in members]
    return None if None in found else any_of(found)


def _not_any(members: list[Json], document: Document, context: Parts) -> Json | None:
    found = [negated(member, document, context) for member in members]
    return None if None in found else all_of(found)


def _not_reference(reference: Json, document: Document, context: Parts) -> Json | None:
    try:
        target = document.at(reference)
    except (LookupError, ValueError):
        return None
    if document.following >= _REFERENCES:
        return None
    document.following += 1
    found = negated(target, document, context)
    document.following -= 1
    return found


def _bound(opposite: str, step: int) -> Callable[[Json, Document, Parts], Json | None]:
    kind = {"L": "string", "I": "array"}[opposite[3]]

    def rule(value: Json, _: Document, __: Parts) -> Json:
        return False if value + step < 0 else {"type": kind, opposite: value + step}

    return rule


def _number(opposite: str) -> Callable[[Json, Document, Parts], Json | None]:
    def rule(value: Json, document: Document, _: Parts) -> Json | None:
        return None if document.old else {"type": "number", opposite: value}

    return rule


_OPPOSITES: Final[dict[str, Callable[[Any, Document, Parts], Json | None]]] = {
    "type": _not_type,
    "enum": _not_values,
    "const": lambda value, document, context: _not_values([value], document, context),
    "required": _not_required,
    "properties": _not_properties,
    "allOf": _not_all,
    "anyOf": _not_any,
    "not": lambda schema, _, __: schema,
    "$ref": _not_reference,
    "minLength": _bound("maxLength", -1),
    "maxLength": _bound("minLength", 1),
    "minItems": _bound("maxItems", -1),
    "maxItems": _bound("minItems", 1),
    "minimum": _number("exclusiveMaximum"),
    "maximum": _number("exclusiveMinimum"),
    "exclusiveMinimum": _number("maximum"),
    "exclusiveMaximum": _number("minimum"),
}
