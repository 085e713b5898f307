"""Schema documents as trees: which parts are schemas, names or values, and where local references lead.

Knows JSON pointers, drafts, and for each keyword whether its value is a schema. Does not know grammars or what a schema
means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

import jsonschema
import jsonschema.protocols
import jsonschema.validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from .regex_dialect import is_slow

Json = Any
Where = tuple[str | int, ...]
"""The path to a part of a document: keys and indices from the root."""
ANNOTATIONS: Final = frozenset(
    ("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly")
)
"""Keywords that restrict nothing in any draft."""
NO_DOCUMENTS: Final[Any] = Registry()
"""An empty registry of other documents, because jsonschema fetches them from the network without one."""
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose members are names with schemas."""
VALUES: Final = ("const", "enum", "default", "examples")
"""Keywords whose values are JSON values, not schemas."""
_DRAFTS: Final = (
    jsonschema.Draft4Validator, jsonschema.Draft6Validator, jsonschema.Draft7Validator,
    jsonschema.Draft201909Validator, jsonschema.Draft202012Validator,
)  # fmt: skip
VALIDATED: Final = frozenset(key for draft in _DRAFTS for key in draft.VALIDATORS) | {"nullable", "then", "else"}
"""Keywords that some draft validates."""
STRUCTURE: Final = frozenset(("$schema", "$id", "id", "$defs", "definitions"))
"""Keywords that name a draft, an address or definitions and restrict nothing."""


def pointer(where: Where) -> str:
    """The JSON pointer of a path."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in where)


def draft_of(document: Json) -> type[jsonschema.protocols.Validator]:
    """The validator class of the draft that `$schema` names; that of 2020-12 where it names none that is known."""
    try:
        return jsonschema.validators.validator_for(document, default=jsonschema.Draft202012Validator)
    except ValueError:  # not a URI
        return jsonschema.Draft202012Validator


_ONE_SCHEMA: Final = frozenset(
    ("items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
     "propertyNames", "not", "if", "then", "else")
)  # fmt: skip
_LISTED_SCHEMAS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_NAMED_SCHEMAS: Final = frozenset((*NAMED, "dependencies"))


def below(schema: Json) -> Iterator[tuple[Where, Json]]:
    """Direct subschemas of a schema with the steps that lead to them; not those in values or under unknown keywords."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from (((key, name), child) for name, child in value.items() if isinstance(child, dict | bool))
        elif key in _ONE_SCHEMA and isinstance(value, dict | bool):
            yield (key,), value
        elif key in _LISTED_SCHEMAS and isinstance(value, list):
            yield from (((key, at), child) for at, child in enumerate(value) if isinstance(child, dict | bool))


def every_schema(document: Json) -> Iterator[tuple[Where, dict[str, Json]]]:
    """Every schema of a document with its path."""
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, schema = stack.pop()
        if isinstance(schema, dict):
            yield where, schema
            stack.extend((where + step, child) for step, child in below(schema))


def heaviest(document: Json) -> Where:
    """The path of the keyword that makes up most of a document: each step leads into more than half of the rest."""
    where: Where = ()
    known = dict[int, int]()
    size = _size(document, known)
    while isinstance(document, dict | list):
        parts: Any = document.items() if isinstance(document, dict) else enumerate(document)
        step: Any
        step, part = max(((step, _size(part, known)) for step, part in parts), key=lambda one: one[1], default=("", 0))
        if 2 * part <= size:
            break
        where, document, size = (*where, step), document[step], part
    while where and (isinstance(where[-1], int) or where[-2:-1] in {(key,) for key in _NAMED_SCHEMAS}):
        where = where[:-1]
    return where


def _size(part: Json, known: dict[int, int]) -> int:
    """The approximate number of characters of a part. `known`: sizes of containers by id, each computed once."""
    if isinstance(part, str):
        return len(part) + 2
    if not isinstance(part, dict | list):
        return 4
    if id(part) not in known:
        names = sum(map(len, part)) + 4 * len(part) if isinstance(part, dict) else 2 * len(part)
        children = part.values() if isinstance(part, dict) else part
        known[id(part)] = 2 + names + sum(_size(child, known) for child in children)
    return known[id(part)]


def mapped(schema: Json, change: Callable[[Json], Json]) -> Json:
    """A copy of `schema` with every direct subschema changed."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for where, child in below(schema):
        key = where[0]
        changed = change(child)
        if changed is child:
            continue
        if len(where) == 1:
            result[key] = changed
            continue
        if result[key] is schema[key]:
            result[key] = schema[key].copy()
        result[key][where[1]] = changed
    return result


class OutOfSteps(Exception):
    """A proof or a rewrite takes more steps than allowed, or a pattern too long."""


@dataclass
class Document:
    """A whole schema document: resolves local references, and validates values with jsonschema in its draft."""

    root: Json
    steps_left: int = 4000
    following: int = 0
    """Depth of nested references that are being followed."""

    def spend(self, steps: int = 1) -> None:
        """Counts steps of work. Raises OutOfSteps where none are left."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise OutOfSteps

    @cached_property
    def keywords(self) -> frozenset[str]:
        """Keywords that the draft validates; others are ignored, as the specification says."""
        return frozenset(draft_of(self.root).VALIDATORS)

    @property
    def old(self) -> bool:
        """Whether the draft is 3 or 4, where exclusive bounds are flags and `const` is unknown."""
        return "const" not in self.keywords

    @property
    def reference_rules_alone(self) -> bool:
        """Whether keywords next to `$ref` are ignored, as in drafts up to 7."""
        return "unevaluatedItems" not in self.keywords

    def at(self, reference: str) -> Json:
        """The schema that a local reference names. Raises LookupError where there is none."""
        part: Json = self.root
        for step in steps(reference):
            index: Any = int(step) if isinstance(part, list) and step.isdecimal() else step
            part = part[index]
        if not isinstance(part, dict | bool):
            raise LookupError(reference)
        return part

    def fits(self, value: Json, schema: Json) -> bool:
        """Whether `value` is valid under a part of this document. Raises OutOfSteps where jsonschema cannot tell."""
        self.spend()
        # jsonschema would validate a part with `$schema` by another class, without the guards of `_validator`.
        has_draft = isinstance(schema, dict) and "$schema" in schema
        part = {key: value for key, value in schema.items() if key != "$schema"} if has_draft else schema
        try:
            return self._validator.evolve(schema=part).is_valid(value)
        except Unresolvable:
            raise OutOfSteps from None

    def matches(self, pattern: str, text: str) -> bool:
        """Whether the pattern is found in the text. Raises OutOfSteps where the search could take very long."""
        if len(text) > 64 or is_slow(pattern):
            raise OutOfSteps
        return re.search(pattern, text) is not None

    @cached_property
    def _validator(self) -> jsonschema.protocols.Validator:
        """The draft's validator, with patterns guarded by `matches`."""
        kind = draft_of(self.root)
        rules = {"pattern": self._pattern, "patternProperties": self._patterns}
        guarded: Any = jsonschema.validators.extend(kind, rules)  # type: ignore[no-untyped-call]
        validator: jsonschema.protocols.Validator = guarded(
            self.root, format_checker=kind.FORMAT_CHECKER, registry=NO_DOCUMENTS
        )
        return validator

    def _pattern(self, _: Any, pattern: str, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
        if isinstance(value, str) and not self.matches(pattern, value):
            yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")

    def _patterns(self, validator: Any, patterns: Json, value: Json, _: Json) -> Iterator[jsonschema.ValidationError]:
        for pattern, schema in patterns.items():
            for name in value if isinstance(value, dict) else ():
                if self.matches(pattern, name):
                    yield from validator.descend(value[name], schema, path=name, schema_path=pattern)


def steps(reference: str) -> list[str]:
    """The steps of a local reference such as `#/$defs/a~1b`. Raises LookupError for any other."""
    path = unquote(reference)
    if path != "#" and not path.startswith("#/"):
        raise LookupError(reference)
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
