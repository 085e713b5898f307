"""Negation of a schema in positive keywords.

Knows which keywords have a negation that is itself a schema. Does not know grammars. The result is None for a keyword
without one (patterns, formats, item rules), because an approximation would change the accepted values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .disjoint import Parts, named_types, parts_of, property_of, types_of
from .document import ANNOTATIONS, Document

Json = Any
_REFERENCES: Final = 4
"""Depth of nested references that are followed, because they may be circular."""
_CHARACTERS: Final = 600
"""Characters that all texts of a negated list may have together."""


def negated(schema: Json, document: Document, context: Parts) -> Json | None:
    """A schema for exactly the values that fit all of `context` and that `schema` refuses.

    None where plain keywords cannot express it.
    """
    if isinstance(schema, bool):
        return not schema
    if "$ref" in schema and document.reference_rules_alone:
        return _not_reference(schema["$ref"], document, context)
    cases: list[Json] = []
    for key, value in schema.items():
        if key in ANNOTATIONS or key not in document.keywords:
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
    """`anyOf` of the cases, without those that no value fits."""
    left = [case for case in cases if case is not False]
    return False if not left else True if True in left else left[0] if len(left) == 1 else {"anyOf": left}


def all_of(members: Iterable[Json]) -> Json:
    """`allOf` of the members, without those that every value fits."""
    left = [member for member in members if member not in (True, {})]
    return True if not left else False if False in left else left[0] if len(left) == 1 else {"allOf": left}


def names_of(types: Iterable[str]) -> list[str]:
    """`types` as values of the keyword `type`."""
    left = set(types)
    return sorted(left - {"fraction", "integer"} | {"number"} if "fraction" in left else left)


def other_than(texts: Sequence[str]) -> str | None:
    """A pattern for every string except `texts`; None where it would be too long, or where a text has a newline,
    before which `$` matches in some dialects."""
    if sum(map(len, texts)) > _CHARACTERS or any("\n" in text or len(text) > 100 for text in texts):
        return None
    return f"^(?:{_tails(sorted(set(texts)))})$"


def _tails(texts: list[str]) -> str:
    """Alternatives of a pattern for every string except `texts`, by their first character."""
    first = sorted({text[0] for text in texts if text})
    taken = [f"{_escaped(c)}(?:{_tails([text[1:] for text in texts if text[:1] == c])})" for c in first]
    other = f"[^{''.join(map(_escaped, first))}][\\s\\S]*" if first else "[\\s\\S]+"
    return "|".join([*taken, other, *([] if "" in texts else [""])])


def _escaped(character: str) -> str:
    return f"\\{character}" if character in "\\^$.|?*+()[]{}-&~" else character


def _not_type(names: Json, document: Document, context: Parts) -> Json | None:
    possible, refused = types_of(context, document), named_types(names)
    left = possible - refused
    if not left:
        return False
    if "fraction" in left and "integer" not in left:  # no keyword means fractions alone
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
        texts = [value for value in values if isinstance(value, str)]
        pattern = other_than(texts)
        if pattern is None:
            return None
        cases.append({"type": "string", "pattern": pattern} if texts else {"type": "string"})
    if numeric := possible & {"integer", "fraction"}:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        cases += _between(sorted(set(numbers)), names_of(numeric)[0], document.old)
    return any_of(cases)


_NESTED: Final = ((list, "array"), (dict, "object"))


def _between(numbers: list[Any], kind: str, old: bool) -> list[Json]:
    """The ranges between and around `numbers`."""
    if kind == "integer":
        numbers = [int(number) for number in numbers if number == int(number)]
    lows, highs = [None, *numbers], [*numbers, None]
    return [
        {"type": kind, **_edge("inimum", 1, low, kind, old), **_edge("aximum", -1, high, kind, old)}
        for low, high in zip(lows, highs, strict=True)
        if kind == "number" or low is None or high is None or high - low > 1
    ]


def _edge(name: str, step: int, number: Any, kind: str, old: bool) -> dict[str, Json]:
    """The bound of a range that excludes `number`. `name`: "inimum" or "aximum"; `step`: towards the inside."""
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
            continue  # absent, or under the same schema in the context, so it always fits
        inner = parts_of(known, document)
        if (case := negated(schema, document, inner)) is None:
            return None
        if case is not False:
            cases.append({"type": "object", "properties": {name: case}, "required": [name]})
    return any_of(cases)


def _not_others(schema: dict[str, Json], context: Parts) -> Json | None:
    """The negation of `additionalProperties: false`: one of the context's other names is present.

    None where the context does not list all names.
    """
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
    """The rule for a bound of lengths or sizes: the keyword `opposite` with the bound moved by `step`."""
    kind = {"L": "string", "I": "array"}[opposite[3]]

    def rule(value: Json, _: Document, __: Parts) -> Json:
        return False if value + step < 0 else {"type": kind, opposite: value + step}

    return rule


def _number(opposite: str) -> Callable[[Json, Document, Parts], Json | None]:
    """The rule for a bound of numbers: the keyword `opposite` with the same bound."""

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
