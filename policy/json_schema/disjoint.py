"""Proofs that two schemas have no value in common; `disjoint` is False where no proof is found.

Knows JSON Schema keywords. Does not know grammars. Every step looks at a superset of the values that a schema accepts
(unknown keywords and references that cannot be followed are left out), so a proof for the supersets is one for the
schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from .document import Document

Json = Any
Parts = list[Any]
"""A conjunction of schemas without `allOf` and `$ref`; False among them means that no value fits."""
TYPES: Final = frozenset(("null", "boolean", "object", "array", "string", "integer", "fraction"))
"""JSON types, with numbers split into integers and fractions."""
_NUMBERS: Final = frozenset(("integer", "fraction"))
_VALUES: Final = 200
"""Length of a list of values up to which each value is tried."""
_DEPTH: Final = 5
"""Number of nested properties and cases that a proof may look into."""


def parts_of(schema: Json, document: Document, depth: int = 8) -> Parts:
    """`schema` as a conjunction: itself, the members of `allOf` and what `$ref` leads to."""
    if not isinstance(schema, dict):
        return [schema] if schema is False else []
    target = target_of(schema, document) if depth else None
    if "$ref" in schema and document.reference_rules_alone:
        return parts_of(target, document, depth - 1) if target is not None else []
    own: Parts = [{key: value for key, value in schema.items() if key not in ("$ref", "allOf")}]
    if target is not None:
        own += parts_of(target, document, depth - 1)
    for member in schema.get("allOf", ()) if depth else ():
        own += parts_of(member, document, depth - 1)
    return own


def types_of(parts: Parts, document: Document) -> frozenset[str]:
    """A superset of the types that the values of `parts` can have."""
    found = TYPES
    for part in parts:
        if part is False:
            return frozenset()
        if "type" in part:
            found &= named_types(part["type"])
        if (values := _listed(part, document)) is not None:
            found &= frozenset[str]().union(*map(type_of, values))
        for key in ("anyOf", "oneOf"):
            if key in part:
                members = (types_of(parts_of(member, document, 3), document) for member in part[key])
                found &= frozenset[str]().union(*members)
    return found


def named_types(names: str | Sequence[str]) -> frozenset[str]:
    """The types that a value of the keyword `type` allows."""
    named = {names} if isinstance(names, str) else set(names)
    return frozenset(named - {"number"} | (_NUMBERS if "number" in named else set()))


def type_of(value: Json) -> frozenset[str]:
    """The types of a value: two for a float such as 1.0, which is an integer in some drafts only."""
    if isinstance(value, float):
        return _NUMBERS if value.is_integer() else frozenset(("fraction",))
    kinds = ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object"))
    return frozenset((next((name for kind, name in kinds if isinstance(value, kind)), "null"),))


def disjoint(a: Json, b: Json, document: Document, depth: int = _DEPTH) -> bool:
    """Whether it is proved that no value fits both schemas."""
    document.spend()
    left, right = parts_of(a, document), parts_of(b, document)
    common = types_of(left, document) & types_of(right, document)
    if not common:
        return True
    values = _finite(left, common, document) or _finite(right, common, document)
    if values is not None:
        return not any(document.fits(value, a) and document.fits(value, b) for value in values)
    if depth == 0:
        return False
    return (
        _bounds_disjoint(left + right, common)
        or (common == frozenset({"object"}) and _disjoint_by_property(left, right, document, depth))
        or _disjoint_by_cases(left, b, document, depth)
        or _disjoint_by_cases(right, a, document, depth)
    )


def property_of(parts: Parts, name: str, document: Document) -> Json:
    """A schema that every value of the property `name` fits; False where the property cannot be present."""
    found = [schema for part in parts if isinstance(part, dict) for schema in _property_schemas(part, name, document)]
    return False if False in found else {"allOf": found} if found else True


def _property_schemas(part: dict[str, Json], name: str, document: Document) -> Iterator[Json]:
    """Schemas in `part` for the property `name`."""
    forbidden = part.get("not")
    if isinstance(forbidden, dict) and forbidden.get("required") == [name] and set(forbidden) <= {"required"}:
        yield False
    if name in part.get("properties", ()):
        yield part["properties"][name]
    elif "additionalProperties" in part and not _patterned(part, name, document):
        yield part["additionalProperties"]


def _patterned(part: dict[str, Json], name: str, document: Document) -> bool:
    """Whether a pattern of `patternProperties` matches `name`."""
    return any(document.matches(pattern, name) for pattern in part.get("patternProperties", ()))


def target_of(schema: dict[str, Json], document: Document) -> Json:
    """The target of the `$ref` of `schema`; None without a reference or a target."""
    try:
        return document.at(schema["$ref"]) if "$ref" in schema else None
    except (LookupError, TypeError, ValueError):
        return None


def _listed(part: dict[str, Json], document: Document) -> list[Json] | None:
    """The values of `const` or `enum`; None without these keywords."""
    if "const" in part and "const" in document.keywords:
        return [part["const"]]
    return part.get("enum")


def _finite(parts: Parts, types: frozenset[str], document: Document) -> list[Json] | None:
    """A short list with every value of these types that fits `parts`; None where there is none."""
    if types <= {"null", "boolean"}:
        return [None, True, False]
    lists = (_listed(part, document) for part in parts if isinstance(part, dict))
    return next((values for values in lists if values is not None and len(values) <= _VALUES), None)


def _bounds_disjoint(parts: Parts, common: frozenset[str]) -> bool:
    """Whether bounds of numbers, lengths of strings or sizes of arrays leave nothing between them."""
    for types, least, most in _BOUNDS:
        if common <= types:
            lower = [part[least] for part in parts if least in part]
            upper = [part[most] for part in parts if most in part]
            return bool(lower and upper and max(lower) > min(upper))
    return False


_BOUNDS: Final = (
    (_NUMBERS, "minimum", "maximum"),
    (frozenset(("string",)), "minLength", "maxLength"),
    (frozenset(("array",)), "minItems", "maxItems"),
)


def _disjoint_by_property(left: Parts, right: Parts, document: Document, depth: int) -> bool:
    """Whether a property that one side requires has disjoint schemas on the two sides."""
    required = dict.fromkeys(name for part in left + right for name in part.get("required", ()))
    return any(
        disjoint(property_of(left, name, document), property_of(right, name, document), document, depth - 1)
        for name in list(required)[:32]
    )


def _disjoint_by_cases(parts: Parts, other: Json, document: Document, depth: int) -> bool:
    """Whether every case of an `anyOf` (or `oneOf`) is disjoint from the other schema."""
    for at, part in enumerate(parts):
        for key in ("anyOf", "oneOf"):
            if key in part and len(part[key]) <= 16:
                rest = [*parts[:at], {k: v for k, v in part.items() if k != key}, *parts[at + 1 :]]
                cases = ({"allOf": [*rest, case]} for case in part[key])
                if all(disjoint(case, other, document, depth - 1) for case in cases):
                    return True
    return False
