"""Check that a recursive schema has a finite value.

Knows how schemas require one another: an object that requires a member of its own kind has no finite value, and a
reference that leads back to itself for the same value has no meaning. Does not know patterns, ranges or grammars,
because compiling the grammar finds what those make unsatisfiable.
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
"""Number of different references that are checked."""
_SAME_VALUE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
"""Keywords whose subschemas apply to the same value as the schema around them."""


def check_recursion(root: Json) -> None:
    """Raises UnsatisfiableSchema, at a reference, where recursion has no finite value or no meaning.

    Raises SchemaTooComplex where there are too many different references to check.
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
    if endless and not _has_finite(root, finite, document):
        raise UnsatisfiableSchema(
            pointer(endless[0]), "$ref", "it requires itself without end; make a property on the way optional"
        )


def _references(root: Json) -> Iterator[tuple[Where, str]]:
    """All references with their paths."""
    stack: list[tuple[Where, Json]] = [((), root)]
    while stack:
        where, schema = stack.pop()
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            yield (*where, "$ref"), schema["$ref"]
        stack.extend((where + step, child) for step, child in below(schema))


def _part(document: Document, reference: str) -> Json | None:
    """The target of a local reference; None without one."""
    try:
        return document.at(reference)
    except (LookupError, TypeError, ValueError):
        return None


def _circular(targets: dict[str, Json]) -> set[str]:
    """The references of one cycle that applies to the same value; empty without such a cycle."""
    follows = {name: set(_same_value(part)) & set(targets) for name, part in targets.items()}
    try:
        TopologicalSorter(follows).prepare()
    except CycleError as error:
        return set(error.args[1])
    return set()


def _same_value(schema: Json) -> Iterator[str]:
    """References that apply to the same value as `schema`."""
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for where, child in below(schema):
        if where[0] in _SAME_VALUE:
            yield from _same_value(child)


def _finite(targets: dict[str, Json], document: Document) -> set[str]:
    """References whose targets have a finite value: the least fixed point."""
    found: set[str] = set()
    left = list(targets)
    while True:
        before = len(found)
        for name in left:  # in alternating order, so that a chain of references takes one pass or two
            if _has_finite(targets[name], found, document):
                found.add(name)
        left = [name for name in reversed(left) if name not in found]
        if len(found) == before:
            return found


def _has_finite(schema: Json, finite: set[str], document: Document) -> bool:
    """Whether a finite value may fit, if only the references in `finite` have one. False only where it is proved."""
    if not isinstance(schema, dict):
        return schema is not False
    reference = schema.get("$ref")
    if isinstance(reference, str) and _part(document, reference) is not None and reference not in finite:
        return False
    if reference is not None and document.reference_rules_alone:
        return True
    if not all(_has_finite(member, finite, document) for member in schema.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_has_finite(member, finite, document) for member in schema[key]):
            return False
    types = named_types(schema["type"]) if "type" in schema else {"string"}
    return bool(types - {"object", "array"}) or any(
        name in types and fits(schema, finite, document) for name, fits in (("object", _object), ("array", _array))
    )


def _object(schema: dict[str, Json], finite: set[str], document: Document) -> bool:
    """Whether a finite object may fit."""
    properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    if schema.get("patternProperties"):
        other = True
    return all(_has_finite(properties.get(name, other), finite, document) for name in schema.get("required", ()))


def _array(schema: dict[str, Json], finite: set[str], document: Document) -> bool:
    """Whether a finite array may fit."""
    items, listed = schema.get("items", True), schema.get("prefixItems")
    listed = items if isinstance(items, list) else listed if isinstance(listed, list) else []
    first = listed[0] if listed else True if isinstance(items, list) else items
    return schema.get("minItems", 0) < 1 or _has_finite(first, finite, document)
