"""The constraints that a server keeps: its forms, and of JSON Schema the keywords that it enforces.

Knows JSON Schema's keywords and where they are in a document. Does not know how a constraint is sent. A keyword that is
not in the list counts as ignored, because a server that ignores it does so silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Json = Any
ANNOTATIONS: Final = frozenset({
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly",
    "$defs", "definitions", "$anchor", "contentEncoding", "contentMediaType", "discriminator",
})  # fmt: skip
"""Keywords that refuse no value by themselves."""
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose members are names with schemas."""
_LISTED: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = (
    "additionalProperties", "items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
COMBINING: Final = ("anyOf", "oneOf", "$ref", "enum", "const")
"""Keywords beside which some servers read no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`forms`: json, regex, choice, lark. `keywords`: those of JSON Schema that are enforced; None: all that our own
    admission takes.

    `types`: for some keywords the types that they are enforced for. `formats`: values of `format` that are enforced.
    `alone`: keywords beside which no other one is read. `closed`: whether objects must list all their properties as
    required and allow no others.
    """

    name: str
    forms: frozenset[str] = frozenset()
    keywords: frozenset[str] | None = None
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)
    formats: frozenset[str] | None = None
    alone: frozenset[str] = frozenset()
    closed: bool = False

    def ignored(self, document: Json) -> list[tuple[str, str, str]]:
        """Returns pointer, keyword and reason of each keyword that the server would not enforce."""
        return list(self._ignored(document, ""))

    def _ignored(self, document: Json, at: str) -> Iterator[tuple[str, str, str]]:
        for place, schema in subschemas(document, at):
            yield from ((f"{place}/{_escaped(key)}", key, why) for key, why in self._own(schema))

    def _own(self, schema: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
        asserting = [key for key in schema if key not in ANNOTATIONS]
        first = next((key for key in COMBINING if key in self.alone and key in schema), None)
        for key in asserting:
            if self.keywords is not None and key not in self.keywords:
                yield key, f"{self.name} ignores it"
            elif key in self.types and not _types(schema) <= self.types[key]:
                yield key, f"{self.name} enforces it for {', '.join(sorted(self.types[key]))} alone"
            elif key == "format" and self.formats is not None and schema[key] not in self.formats:
                yield key, f"{self.name} ignores this format"
            elif first is not None and key not in (first, "type"):
                yield key, f"{self.name} ignores it beside {first}"
        if self.closed and "properties" in schema:
            yield from self._open(schema)

    def _open(self, schema: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
        if set(schema["properties"]) - set(schema.get("required", ())):
            yield "properties", f"{self.name} takes objects only if all properties are required"
        if schema.get("additionalProperties") is not False:
            yield "properties", f"{self.name} takes objects only with additionalProperties: false"


def subschemas(document: Json, at: str = "") -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Yields every schema object of a document with its pointer, the document first."""
    if not isinstance(document, Mapping):
        return
    yield at, document
    for key, value in document.items():
        for step, inner in _inside(key, value):
            yield from subschemas(inner, f"{at}/{step}")


def without(document: Json, pointers: Collection[str], at: str = "") -> Json:
    """Returns a copy of the document without the keywords at `pointers`."""
    if isinstance(document, Mapping):
        places = {key: f"{at}/{_escaped(key)}" for key in document}
        return {key: without(document[key], pointers, place) for key, place in places.items() if place not in pointers}
    if isinstance(document, list):
        return [without(item, pointers, f"{at}/{number}") for number, item in enumerate(document)]
    return document


def _inside(key: str, value: Json) -> Iterator[tuple[str, Json]]:
    if key in _NAMED and isinstance(value, Mapping):
        yield from ((f"{key}/{_escaped(name)}", inner) for name, inner in value.items())
    elif key in _LISTED and isinstance(value, list):
        yield from ((f"{key}/{number}", inner) for number, inner in enumerate(value))
    elif key in _SINGLE:
        yield key, value


def _types(schema: Mapping[str, Json]) -> set[str]:
    given = schema.get("type", ["any"])
    return {given} if isinstance(given, str) else set(given)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
