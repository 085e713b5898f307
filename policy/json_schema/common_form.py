"""Schemas in a common form: references as JSON pointers, one draft, without names that only references need.

Knows what drafts 4, 6, 7, 2019-09 and 2020-12 write differently, and OpenAPI's `nullable`. Both forms take the same
values. Does not know grammars or tools; `origin` leads from a place of the new form to where it stood.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

import jsonschema

from .document import Where, below, pointer
from .references import References, Scope

Json = Any
_NEWEST: Final = jsonschema.Draft202012Validator
_NAMES: Final = frozenset(("$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"))
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_WITH: Final = {"then": "if", "else": "if"}
"""Keywords that jsonschema reads with another one, which a draft has to know for them to mean anything."""
_DEFINITIONS: Final = ("$defs", "definitions")
_ANY_VALUE: Final = frozenset(("const", "not", "if", "anyOf", "oneOf", "allOf", *_REFERENCES))
"""Keywords that may refuse null even where `type` and `enum` take it."""
_TELLING: Final = re.compile(r'"(?:\$id|id|\$anchor|\$dynamicAnchor|\$dynamicRef|\$recursiveRef|nullable)": ')


@dataclass(frozen=True)
class CommonForm:
    """`document`, and by their pointers the places of its schemas that were others before."""

    document: Json
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, place: str) -> str:
        """A pointer into the form, as a pointer into what was given."""
        end = len(place)
        while end >= 0:
            if (found := self.origins.get(place[:end])) is not None:
                return found + _OLD_NAMES.get(place[end:], place[end:])
            end = place.rfind("/", 0, end) if end else -1
        return place


_OLD_NAMES: Final = {"/prefixItems": "/items"}


def to_common_form(document: Json, text: str | None = None) -> CommonForm:
    """`document` as a whole: in its own draft, or in 2020-12 where its parts name several."""
    text = json.dumps(document) if text is None else text
    named = text.count('"$schema": ') - ("$schema" in document)
    if not named and _TELLING.search(text) is None:
        return CommonForm(document)
    references = References(document)
    drafts = {scope.draft for scope in references.scopes.values()}
    work = _Work(references, (), modern=len(drafts) > 1)
    made = work.form()
    if len(drafts) == 1 and "$schema" in document and isinstance(made.document, dict):
        return CommonForm({"$schema": document["$schema"], **made.document}, made.origins)
    return made


def moved_form(document: dict[str, Json], place: Where) -> CommonForm:
    """`document` in draft 2020-12, as it reads at `place` of a larger one."""
    return _Work(References(document), place, modern=True).form()


@dataclass
class _Work:
    references: References
    root: Where
    modern: bool
    _places: dict[Where, Where] = field(default_factory=dict)
    """From where a schema stood to where it stands."""
    _origins: dict[Where, Where] = field(default_factory=dict)
    _pending: list[tuple[dict[str, Json], str, Where]] = field(default_factory=list)
    _strays: dict[str, Json] = field(default_factory=dict)

    def form(self) -> CommonForm:
        made = self._schema((), self.root)
        while self._pending:
            holder, keyword, target = self._pending.pop()
            if target not in self._places:
                self._stray(target, made)
            reference = "#" + pointer(self._places[target])
            if keyword in holder:
                holder["allOf"] = [*holder.get("allOf", ()), {keyword: reference}]
            else:
                holder[keyword] = reference
        if self._strays:
            made["$defs"] = {**made.get("$defs", {}), **self._strays}
        return CommonForm(made, {pointer(new): pointer(old) for new, old in self._origins.items()})

    def _stray(self, target: Where, made: Json) -> None:
        """Takes a schema along that stands where only a reference finds it, or that its draft ignores there."""
        name = str(target[-1])
        while name in self._strays or name in made.get("$defs", {}):
            name += "'"
        self._strays[name] = True  # the name is taken while its own references are followed
        self._strays[name] = self._schema(target, (*self.root, "$defs", name))

    def _schema(self, old: Where, new: Where) -> Json:
        scope, schema = self.references.scope(old), self.references.part(old)
        self._places[old], self._origins[new] = new, old
        if not isinstance(schema, dict):
            return schema
        wraps = schema.get("nullable") is True and not _ANY_VALUE.isdisjoint(schema)
        inside = (*new, "anyOf", 0) if wraps else new
        self._origins[inside] = old
        if self.modern and scope.reference_rules_alone and isinstance(schema.get("$ref"), str):
            schema = {key: schema[key] for key in ("$ref", *_DEFINITIONS) if key in schema}
        made = self._keywords(schema, scope, old, inside)
        for keyword in _REFERENCES:
            if keyword in schema and keyword in scope.draft.VALIDATORS:
                self._refer(made, keyword, schema, old)
        if wraps:
            return {"anyOf": [made, {"type": "null"}]}
        return _with_null(made) if self.references.part(old).get("nullable") is True else made

    def _refer(self, made: dict[str, Json], keyword: str, schema: dict[str, Json], old: Where) -> None:
        target = self.references.target(old, keyword)
        if target is None:
            made[keyword] = schema[keyword]
        else:
            self._pending.append((made, "$ref", target))

    def _keywords(self, schema: dict[str, Json], scope: Scope, old: Where, new: Where) -> dict[str, Json]:
        """All but references, each with the schemas that it holds."""
        known, made, named_here = scope.draft.VALIDATORS, dict[str, Json](), "const" in scope.draft.VALIDATORS
        parts: dict[str, list[Where]] = {}
        for step, _ in below(schema):
            parts.setdefault(str(step[0]), []).append(step)
        for key, value in schema.items():
            if key in _NAMES or (key == "id" and not named_here and isinstance(value, str)) or key == "nullable":
                continue
            if key in _REFERENCES and key in known:
                continue
            if not self.modern:
                made[key] = self._held(value, parts.get(key, ()), old, new, key)
            elif key == "dependencies" and key in known and isinstance(value, dict):
                self._dependencies(made, value, old, new)
            elif key in _FLAGS and not named_here:
                made |= _bound(key, value, schema.get(_FLAGS[key]))
            elif (name := self._modern(key, schema, known)) is not None:
                made[name] = self._held(value, parts.get(key, ()), old, new, name)
        return made

    def _held(self, value: Json, parts: Any, old: Where, new: Where, name: str) -> Json:
        if not parts:
            return value
        if len(parts[0]) == 1:
            return self._schema(old + parts[0], (*new, name))
        made = value.copy()
        for step in parts:
            made[step[1]] = self._schema(old + step, (*new, name, step[1]))
        return made

    @staticmethod
    def _modern(key: str, schema: dict[str, Json], known: Any) -> str | None:
        """The keyword's name in 2020-12; None where it means nothing in its own draft."""
        listed = isinstance(schema.get("items"), list) and "additionalItems" in known
        if key == "items" and listed:
            return "prefixItems" if schema["items"] else None
        if key == "additionalItems" and "additionalItems" in known:
            return "items" if listed else None
        if key in ("minContains", "maxContains"):
            return key if "unevaluatedItems" in known else None
        meant_by = _WITH.get(key, key)
        return None if meant_by in _NEWEST.VALIDATORS and meant_by not in known else key

    def _dependencies(self, made: dict[str, Json], held: dict[str, Json], old: Where, new: Where) -> None:
        for name, rule in held.items():
            if isinstance(rule, list):
                made.setdefault("dependentRequired", {})[name] = rule
            elif isinstance(rule, str):
                made.setdefault("dependentRequired", {})[name] = [rule]
            else:
                schemas = made.setdefault("dependentSchemas", {})
                schemas[name] = self._schema((*old, "dependencies", name), (*new, "dependentSchemas", name))


_FLAGS: Final = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum",
                 "exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}  # fmt: skip


def _bound(key: str, value: Json, other: Json) -> dict[str, Json]:
    """A bound of draft 4, where a flag beside the number says that it is exclusive."""
    if isinstance(value, bool):
        return {}
    return {_FLAGS[key]: value} if other is True else {key: value}


def _with_null(schema: dict[str, Json]) -> dict[str, Json]:
    """A schema without keywords that could refuse null, but for `type` and `enum`, which take it now."""
    made = dict(schema)
    if "type" in made:
        types = made["type"] if isinstance(made["type"], list) else [made["type"]]
        made["type"] = types if "null" in types else [*types, "null"]
    if isinstance(made.get("enum"), list) and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]
    return made


def has_nullable(document: Json) -> bool:
    """Whether a schema of `document` says `nullable: true`."""
    stack = [document]
    while stack:
        schema = stack.pop()
        if isinstance(schema, dict) and schema.get("nullable") is True:
            return True
        stack.extend(child for _, child in below(schema))
    return False
