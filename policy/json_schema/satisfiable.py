"""Whether a schema can be fulfilled by something finite.

Knows how schemas require one another: an object that must hold an object of its own kind never ends, and a reference
that leads back to itself without a value between says nothing. Does not know regular expressions, ranges or grammars:
what those make impossible is found when the grammar is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from ..errors import SchemaTooComplex, UnsatisfiableSchema
from .disjoint import named_types
from .document import Document, Where, below, pointer

Json = Any
_TARGETS: Final = 2000
_SAME_VALUE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")


def check_recursion(root: Json) -> None:
    """Raises UnsatisfiableSchema, at a reference, where following references never comes to an end.

    Raises SchemaTooComplex where there are too many different ones to tell.
    """
    references = dict(_references(root))
    if not references:
        return
    if len(set(references.values())) > _TARGETS:
        raise SchemaTooComplex("", "$ref", f"more than {_TARGETS:,} different references; leave out what is not needed")
    document = Document(root)
    targets = {name: part for name in dict.fromkeys(references.values()) if (part := _part(document, name)) is not None}
    circular = _circular(targets)
    for where, name in references.items():
        if name in circular:
            raise UnsatisfiableSchema(
                pointer(where), "$ref", "the reference leads back to itself without a value between; remove it"
            )
    finite = _finite(targets, document)
    endless = [where for where, name in references.items() if name in targets and name not in finite]
    if endless and not _ends(root, finite, document):
        raise UnsatisfiableSchema(
            pointer(endless[0]), "$ref", "it requires itself without end; make a property on the way optional"
        )


def _references(root: Json) -> Iterator[tuple[Where, str]]:
    stack: list[tuple[Where, Json]] = [((), root)]
    while stack:
        where, schema = stack.pop()
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            yield (*where, "$ref"), schema["$ref"]
        stack.extend((where + step, child) for step, child in below(schema))


def _part(document: Document, reference: str) -> Json | None:
    try:
        return document.at(reference)
    except (LookupError, TypeError, ValueError):
        return None


def _circular(targets: dict[str, Json]) -> set[str]:
    """References of one circle, followed while looking at the same value; empty where there is none."""
    follows = {name: set(_same_value(part)) & set(targets) for name, part in targets.items()}
    try:
        TopologicalSorter(follows).prepare()
    except CycleError as error:
        return set(error.args[1])
    return set()


def _same_value(schema: Json) -> Iterator[str]:
    """References that look at the same value as `schema`."""
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for where, child in below(schema):
        if where[0] in _SAME_VALUE:
            yield from _same_value(child)


def _finite(targets: dict[str, Json], document: Document) -> set[str]:
    """References that something finite can fulfil: the least set that holds together."""
    found: set[str] = set()
    left = list(targets)
    while True:
        before = len(found)
        for name in left:  # in place, and back and forth: a chain of references takes one pass or two
            if _ends(targets[name], found, document):
                found.add(name)
        left = [name for name in reversed(left) if name not in found]
        if len(found) == before:
            return found


def _ends(schema: Json, finite: set[str], document: Document) -> bool:
    """Whether something finite may fit, if just the references in `finite` can end. Never says no wrongly."""
    if not isinstance(schema, dict):
        return schema is not False
    reference = schema.get("$ref")
    if isinstance(reference, str) and _part(document, reference) is not None and reference not in finite:
        return False
    if reference is not None and document.reference_rules_alone:
        return True
    if not all(_ends(member, finite, document) for member in schema.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_ends(member, finite, document) for member in schema[key]):
            return False
    types = named_types(schema["type"]) if "type" in schema else {"string"}
    return bool(types - {"object", "array"}) or any(
        name in types and ends(schema, finite, document) for name, ends in (("object", _object), ("array", _array))
    )


def _object(schema: dict[str, Json], finite: set[str], document: Document) -> bool:
    properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    if schema.get("patternProperties"):
        other = True
    return all(_ends(properties.get(name, other), finite, document) for name in schema.get("required", ()))


def _array(schema: dict[str, Json], finite: set[str], document: Document) -> bool:
    items, listed = schema.get("items", True), schema.get("prefixItems")
    listed = items if isinstance(items, list) else listed if isinstance(listed, list) else []
    first = listed[0] if listed else True if isinstance(items, list) else items
    return schema.get("minItems", 0) < 1 or _ends(first, finite, document)
