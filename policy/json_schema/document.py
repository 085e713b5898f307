"""Schema documents as trees: which of their parts are schemas, which are names or values, and where references lead.

Knows the keywords of JSON Schema by the shape of what they hold, JSON pointers and drafts. Does not know grammars or
what a schema means.
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
ANNOTATIONS: Final = frozenset(
    ("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly")
)
ALONE: Final[Any] = Registry()
"""Where validators look other documents up: nowhere. Without it, jsonschema would fetch them from the network."""
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names, not keywords."""
VALUES: Final = ("const", "enum", "default", "examples")
"""Keywords that hold values, not schemas."""
STRUCTURE: Final = frozenset(("$schema", "$id", "id", "$defs", "definitions"))
"""Keywords that name things and hold no value to anything."""


def pointer(where: Where) -> str:
    """The JSON pointer of a place."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in where)


def draft_of(document: Json) -> type[jsonschema.protocols.Validator]:
    """The validator class that `$schema` asks for; 2020-12 where it asks for none that is known."""
    try:
        return jsonschema.validators.validator_for(document, default=jsonschema.Draft202012Validator)
    except ValueError:  # what is named there is no address
        return jsonschema.Draft202012Validator


_ONE: Final = frozenset(
    ("items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
     "propertyNames", "not", "if", "then", "else")
)  # fmt: skip
_SEVERAL: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_UNDER_NAMES: Final = frozenset((*NAMED, "dependencies"))


def below(schema: Json) -> Iterator[tuple[Where, Json]]:
    """Direct subschemas of a schema with the steps that lead there. Values and unknown keywords are left out."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _UNDER_NAMES and isinstance(value, dict):
            yield from (((key, name), child) for name, child in value.items() if isinstance(child, dict | bool))
        elif key in _ONE and isinstance(value, dict | bool):
            yield (key,), value
        elif key in _SEVERAL and isinstance(value, list):
            yield from (((key, at), child) for at, child in enumerate(value) if isinstance(child, dict | bool))


def every_schema(document: Json) -> Iterator[tuple[Where, dict[str, Json]]]:
    """Every schema of a document with its place."""
    stack: list[tuple[Where, Json]] = [((), document)]
    while stack:
        where, schema = stack.pop()
        if isinstance(schema, dict):
            yield where, schema
            stack.extend((where + step, child) for step, child in below(schema))


def heaviest(document: Json) -> Where:
    """The keyword that holds most of a document: each step down is into more than half of what is left."""
    where: Where = ()
    known = dict[int, int]()
    size = _weight(document, known)
    while isinstance(document, dict | list):
        parts: Any = document.items() if isinstance(document, dict) else enumerate(document)
        step: Any
        step, part = max(
            ((step, _weight(part, known)) for step, part in parts), key=lambda one: one[1], default=("", 0)
        )
        if 2 * part <= size:
            break
        where, document, size = (*where, step), document[step], part
    while where and (isinstance(where[-1], int) or where[-2:-1] in {(key,) for key in _UNDER_NAMES}):
        where = where[:-1]
    return where


def _weight(part: Json, known: dict[int, int]) -> int:
    """About the characters of a part of a document. `known` gets those of all that it holds: each is weighed once."""
    if isinstance(part, str):
        return len(part) + 2
    if not isinstance(part, dict | list):
        return 4
    if id(part) not in known:
        names = sum(map(len, part)) + 4 * len(part) if isinstance(part, dict) else 2 * len(part)
        held = part.values() if isinstance(part, dict) else part
        known[id(part)] = 2 + names + sum(_weight(child, known) for child in held)
    return known[id(part)]


def mapped(schema: Json, change: Callable[[Json], Json]) -> Json:
    """A copy of `schema` with every direct subschema changed."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for where, child in below(schema):
        key = where[0]
        changed = change(child)
        if changed is child:
            continue
        if len(where) == 1:
            made[key] = changed
            continue
        if made[key] is schema[key]:
            made[key] = schema[key].copy()
        made[key][where[1]] = changed
    return made


class OutOfSteps(Exception):
    """A proof or rewrite would take longer than it is worth."""


@dataclass
class Document:
    """A whole schema: follows its local references and asks jsonschema, under the draft that it names."""

    root: Json
    steps_left: int = 4000
    following: int = 0
    """References being followed right now, one inside the other."""

    def spend(self, steps: int = 1) -> None:
        """Counts work done. Raises OutOfSteps where there was too much."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise OutOfSteps

    @cached_property
    def known(self) -> frozenset[str]:
        """Keywords that hold values to something in this draft; others are ignored, as the specification says."""
        return frozenset(draft_of(self.root).VALIDATORS)

    @property
    def old(self) -> bool:
        """Drafts 3 and 4: exclusive bounds are flags, and there is no `const`."""
        return "const" not in self.known

    @property
    def reference_rules_alone(self) -> bool:
        """Drafts up to 7 ignore whatever stands beside `$ref`."""
        return "unevaluatedItems" not in self.known

    def at(self, reference: str) -> Json:
        """The part that a local reference names. Raises LookupError where there is none."""
        part: Json = self.root
        for step in steps(reference):
            index: Any = int(step) if isinstance(part, list) and step.isdecimal() else step
            part = part[index]
        if not isinstance(part, dict | bool):
            raise LookupError(reference)
        return part

    def fits(self, value: Json, schema: Json) -> bool:
        """Whether jsonschema takes `value` under a part of this document. Raises OutOfSteps where it cannot tell."""
        self.spend()
        # A part that names a draft would be read by a validator without our guards.
        named = isinstance(schema, dict) and "$schema" in schema
        part = {key: value for key, value in schema.items() if key != "$schema"} if named else schema
        try:
            return self._oracle.evolve(schema=part).is_valid(value)
        except Unresolvable:
            raise OutOfSteps from None

    def matches(self, pattern: str, text: str) -> bool:
        """Whether the pattern is found in the text. Raises OutOfSteps where trying could take very long."""
        if len(text) > 64 or is_slow(pattern):
            raise OutOfSteps
        return re.search(pattern, text) is not None

    @cached_property
    def _oracle(self) -> jsonschema.protocols.Validator:
        kind = draft_of(self.root)
        rules = {"pattern": self._pattern, "patternProperties": self._patterns}
        guarded: Any = jsonschema.validators.extend(kind, rules)  # type: ignore[no-untyped-call]
        oracle: jsonschema.protocols.Validator = guarded(self.root, format_checker=kind.FORMAT_CHECKER, registry=ALONE)
        return oracle

    def _pattern(self, _: Any, pattern: str, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
        if isinstance(value, str) and not self.matches(pattern, value):
            yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")

    def _patterns(self, validator: Any, held: Json, value: Json, _: Json) -> Iterator[jsonschema.ValidationError]:
        for pattern, schema in held.items():
            for name in value if isinstance(value, dict) else ():
                if self.matches(pattern, name):
                    yield from validator.descend(value[name], schema, path=name, schema_path=pattern)


def steps(reference: str) -> list[str]:
    """The steps of a local reference such as `#/$defs/a~1b`. Raises LookupError for any other."""
    path = unquote(reference)
    if path != "#" and not path.startswith("#/"):
        raise LookupError(reference)
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
