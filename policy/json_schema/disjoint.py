"""Whether two schemas can take the same value. `disjoint` says yes only with a proof; no proof means no.

Knows JSON Schema keywords. Every step looks at a superset of what a schema takes (unknown keywords and references that
cannot be followed are left out), so what it proves of the supersets holds for the schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from .document import Document

Json = Any
Parts = list[Any]
"""Schemas that all hold at once, free of `allOf` and `$ref`; False among them means that nothing fits."""
TYPES: Final = frozenset(("null", "boolean", "object", "array", "string", "integer", "fraction"))
"""JSON types, numbers split into whole ones and the rest."""
_NUMBERS: Final = frozenset(("integer", "fraction"))
_VALUES: Final = 200
_DEPTH: Final = 5


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
    """What the keyword `type` allows."""
    every = {names} if isinstance(names, str) else set(names)
    return frozenset(every - {"number"} | (_NUMBERS if "number" in every else set()))


def type_of(value: Json) -> frozenset[str]:
    """The type of a value. 1.0 is an integer in some drafts only, so it has two."""
    if isinstance(value, float):
        return _NUMBERS if value.is_integer() else frozenset(("fraction",))
    kinds = ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object"))
    return frozenset((next((name for kind, name in kinds if isinstance(value, kind)), "null"),))


def disjoint(a: Json, b: Json, document: Document, depth: int = _DEPTH) -> bool:
    """True only where no value can fit both."""
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
        _apart(left + right, common)
        or (common == frozenset({"object"}) and _parted_by_property(left, right, document, depth))
        or _parted_by_cases(left, b, document, depth)
        or _parted_by_cases(right, a, document, depth)
    )


def property_of(parts: Parts, name: str, document: Document) -> Json:
    """A schema that every value under `name` fits, False where there can be none."""
    found = [schema for part in parts if isinstance(part, dict) for schema in _held(part, name, document)]
    return False if False in found else {"allOf": found} if found else True


def _held(part: dict[str, Json], name: str, document: Document) -> Iterator[Json]:
    forbidden = part.get("not")
    if isinstance(forbidden, dict) and forbidden.get("required") == [name] and set(forbidden) <= {"required"}:
        yield False
    if name in part.get("properties", ()):
        yield part["properties"][name]
    elif "additionalProperties" in part and not _patterned(part, name, document):
        yield part["additionalProperties"]


def _patterned(part: dict[str, Json], name: str, document: Document) -> bool:
    return any(document.matches(pattern, name) for pattern in part.get("patternProperties", ()))


def target_of(schema: dict[str, Json], document: Document) -> Json:
    """What the `$ref` of `schema` leads to; None without one, or where it leads nowhere."""
    try:
        return document.at(schema["$ref"]) if "$ref" in schema else None
    except (LookupError, TypeError, ValueError):
        return None


def _listed(part: dict[str, Json], document: Document) -> list[Json] | None:
    """The values that `const` or `enum` lists."""
    if "const" in part and "const" in document.known:
        return [part["const"]]
    return part.get("enum")


def _finite(parts: Parts, types: frozenset[str], document: Document) -> list[Json] | None:
    """A short list that holds every value of these types that `parts` takes."""
    if types <= {"null", "boolean"}:
        return [None, True, False]
    lists = (_listed(part, document) for part in parts if isinstance(part, dict))
    return next((values for values in lists if values is not None and len(values) <= _VALUES), None)


def _apart(parts: Parts, common: frozenset[str]) -> bool:
    """Bounds of numbers, lengths of strings or sizes of arrays that leave nothing between them."""
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


def _parted_by_property(left: Parts, right: Parts, document: Document, depth: int) -> bool:
    """A property that one side requires and that the two sides want differently."""
    required = dict.fromkeys(name for part in left + right for name in part.get("required", ()))
    return any(
        disjoint(property_of(left, name, document), property_of(right, name, document), document, depth - 1)
        for name in list(required)[:32]
    )


def _parted_by_cases(parts: Parts, other: Json, document: Document, depth: int) -> bool:
    """An `anyOf` (or `oneOf`) of which every case is apart from the other schema."""
    for at, part in enumerate(parts):
        for key in ("anyOf", "oneOf"):
            if key in part and len(part[key]) <= 16:
                rest = [*parts[:at], {k: v for k, v in part.items() if k != key}, *parts[at + 1 :]]
                cases = ({"allOf": [*rest, case]} for case in part[key])
                if all(disjoint(case, other, document, depth - 1) for case in cases):
                    return True
    return False
