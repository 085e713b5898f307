"""Common form of schemas: references as JSON pointers, one draft, no `$id` or anchor.

Knows what drafts 4, 6, 7, 2019-09 and 2020-12 write differently, and OpenAPI's `nullable`. Does not know grammars or
tools. The common form accepts the same values; `origin` maps its pointers back to the document as given.
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
_READ_WITH: Final = {"then": "if", "else": "if"}
"""Keywords that have a meaning only in drafts that know another one, and that one."""
_DEFINITIONS: Final = ("$defs", "definitions")
_ANY_VALUE: Final = frozenset(("const", "not", "if", "anyOf", "oneOf", "allOf", *_REFERENCES))
"""Keywords that may refuse null even where `type` and `enum` allow it."""
_NEEDS_FORM: Final = re.compile(r'"(?:\$id|id|\$anchor|\$dynamicAnchor|\$dynamicRef|\$recursiveRef|nullable)": ')
"""Keywords in JSON text without which a document of one draft is in common form already."""


@dataclass(frozen=True)
class CommonForm:
    """A document in common form. `origins`: for each of its schemas' pointers, the pointer in the document as given."""

    document: Json
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, place: str) -> str:
        """The pointer into the document as given of a pointer into the common form."""
        end = len(place)
        while end >= 0:
            if (found := self.origins.get(place[:end])) is not None:
                return found + _OLD_NAMES.get(place[end:], place[end:])
            end = place.rfind("/", 0, end) if end else -1
        return place


_OLD_NAMES: Final = {"/prefixItems": "/items"}
"""Old names of renamed keywords that hold a list of schemas and so are not in `origins` themselves."""


def to_common_form(document: Json, text: str | None = None) -> CommonForm:
    """The common form of a whole document: in its own draft, or in 2020-12 where its parts name several.

    `text`: the document as JSON, where the caller has it.
    """
    text = json.dumps(document) if text is None else text
    drafts_inside = text.count('"$schema": ') - ("$schema" in document)
    if not drafts_inside and _NEEDS_FORM.search(text) is None:
        return CommonForm(document)
    references = References(document)
    drafts = {scope.draft for scope in references.scopes.values()}
    form = _Conversion(references, (), modern=len(drafts) > 1).form()
    if len(drafts) == 1 and "$schema" in document and isinstance(form.document, dict):
        return CommonForm({"$schema": document["$schema"], **form.document}, form.origins)
    return form


def moved_form(document: dict[str, Json], place: Where) -> CommonForm:
    """The common form of `document` in draft 2020-12, for use at `place` in a larger document."""
    return _Conversion(References(document), place, modern=True).form()


@dataclass
class _Conversion:
    """The conversion of one document. `root`: where it goes in the result; `modern`: whether to write draft 2020-12."""

    references: References
    root: Where
    modern: bool
    _places: dict[Where, Where] = field(default_factory=dict)
    """The new path of each schema by its old path."""
    _origins: dict[Where, Where] = field(default_factory=dict)
    """The old path of each schema by its new path."""
    _pending: list[tuple[dict[str, Json], str, Where]] = field(default_factory=list)
    """References to write once all paths are known: the schema, the keyword, the target's old path."""
    _strays: dict[str, Json] = field(default_factory=dict)
    """Schemas that are reached by references alone, by their new name under `$defs`."""

    def form(self) -> CommonForm:
        result = self._schema((), self.root)
        while self._pending:
            schema, keyword, target = self._pending.pop()
            if target not in self._places:
                self._stray(target, result)
            reference = "#" + pointer(self._places[target])
            if keyword in schema:
                schema["allOf"] = [*schema.get("allOf", ()), {keyword: reference}]
            else:
                schema[keyword] = reference
        if self._strays:
            result["$defs"] = {**result.get("$defs", {}), **self._strays}
        return CommonForm(result, {pointer(new): pointer(old) for new, old in self._origins.items()})

    def _stray(self, target: Where, result: Json) -> None:
        """Adds a schema to `$defs` that only a reference reaches, because it is under an unknown or ignored keyword."""
        name = str(target[-1])
        while name in self._strays or name in result.get("$defs", {}):
            name += "'"
        self._strays[name] = True  # reserved while its own references are followed
        self._strays[name] = self._schema(target, (*self.root, "$defs", name))

    def _schema(self, old: Where, new: Where) -> Json:
        """The converted schema at the path `old`, for the path `new`."""
        scope, schema = self.references.scope(old), self.references.part(old)
        self._places[old], self._origins[new] = new, old
        if not isinstance(schema, dict):
            return schema
        wraps = schema.get("nullable") is True and not _ANY_VALUE.isdisjoint(schema)
        inside = (*new, "anyOf", 0) if wraps else new
        self._origins[inside] = old
        if self.modern and scope.reference_rules_alone and isinstance(schema.get("$ref"), str):
            schema = {key: schema[key] for key in ("$ref", *_DEFINITIONS) if key in schema}
        result = self._keywords(schema, scope, old, inside)
        for keyword in _REFERENCES:
            if keyword in schema and keyword in scope.draft.VALIDATORS:
                self._refer(result, keyword, schema, old)
        if wraps:
            return {"anyOf": [result, {"type": "null"}]}
        return _with_null(result) if self.references.part(old).get("nullable") is True else result

    def _refer(self, result: dict[str, Json], keyword: str, schema: dict[str, Json], old: Where) -> None:
        target = self.references.target(old, keyword)
        if target is None:
            result[keyword] = schema[keyword]
        else:
            self._pending.append((result, "$ref", target))

    def _keywords(self, schema: dict[str, Json], scope: Scope, old: Where, new: Where) -> dict[str, Json]:
        """The converted keywords with their subschemas, without references."""
        known, result, has_const = scope.draft.VALIDATORS, dict[str, Json](), "const" in scope.draft.VALIDATORS
        parts: dict[str, list[Where]] = {}
        for step, _ in below(schema):
            parts.setdefault(str(step[0]), []).append(step)
        for key, value in schema.items():
            if key in _NAMES or (key == "id" and not has_const and isinstance(value, str)) or key == "nullable":
                continue
            if key in _REFERENCES and key in known:
                continue
            if not self.modern:
                result[key] = self._converted(value, parts.get(key, ()), old, new, key)
            elif key == "dependencies" and key in known and isinstance(value, dict):
                self._dependencies(result, value, old, new)
            elif key in _FLAGS and not has_const:
                result |= _bound(key, value, schema.get(_FLAGS[key]))
            elif (name := self._modern(key, schema, known)) is not None:
                result[name] = self._converted(value, parts.get(key, ()), old, new, name)
        return result

    def _converted(self, value: Json, parts: Any, old: Where, new: Where, name: str) -> Json:
        """A keyword's value with its subschemas (`parts`: the steps to them) converted. `name`: the new keyword."""
        if not parts:
            return value
        if len(parts[0]) == 1:
            return self._schema(old + parts[0], (*new, name))
        result = value.copy()
        for step in parts:
            result[step[1]] = self._schema(old + step, (*new, name, step[1]))
        return result

    @staticmethod
    def _modern(key: str, schema: dict[str, Json], known: Any) -> str | None:
        """The keyword's name in 2020-12; None where its own draft ignores it."""
        listed = isinstance(schema.get("items"), list) and "additionalItems" in known
        if key == "items" and listed:
            return "prefixItems" if schema["items"] else None
        if key == "additionalItems" and "additionalItems" in known:
            return "items" if listed else None
        if key in ("minContains", "maxContains"):
            return key if "unevaluatedItems" in known else None
        read_with = _READ_WITH.get(key, key)
        return None if read_with in _NEWEST.VALIDATORS and read_with not in known else key

    def _dependencies(self, result: dict[str, Json], rules: dict[str, Json], old: Where, new: Where) -> None:
        """Adds draft 7's `dependencies` to `result` as `dependentRequired` and `dependentSchemas`."""
        for name, rule in rules.items():
            if isinstance(rule, list):
                result.setdefault("dependentRequired", {})[name] = rule
            elif isinstance(rule, str):
                result.setdefault("dependentRequired", {})[name] = [rule]
            else:
                schemas = result.setdefault("dependentSchemas", {})
                schemas[name] = self._schema((*old, "dependencies", name), (*new, "dependentSchemas", name))


_FLAGS: Final = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum",
                 "exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}  # fmt: skip


def _bound(key: str, value: Json, other: Json) -> dict[str, Json]:
    """A bound of draft 4, where a second keyword is a flag that makes the number exclusive."""
    if isinstance(value, bool):
        return {}
    return {_FLAGS[key]: value} if other is True else {key: value}


def _with_null(schema: dict[str, Json]) -> dict[str, Json]:
    """`schema`, in which no other keyword can refuse null, with null added to `type` and `enum`."""
    result = dict(schema)
    if "type" in result:
        types = result["type"] if isinstance(result["type"], list) else [result["type"]]
        result["type"] = types if "null" in types else [*types, "null"]
    if isinstance(result.get("enum"), list) and None not in result["enum"]:
        result["enum"] = [*result["enum"], None]
    return result


def has_nullable(document: Json) -> bool:
    """Whether some schema of `document` has `nullable: true`."""
    stack = [document]
    while stack:
        schema = stack.pop()
        if isinstance(schema, dict) and schema.get("nullable") is True:
            return True
        stack.extend(child for _, child in below(schema))
    return False
