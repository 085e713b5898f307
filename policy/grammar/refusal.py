"""Location of llguidance's refusals in a schema: pointer, keyword and hint.

Knows schema documents and the wording of llguidance's reasons. Does not know how schemas are compiled. Asks about ever
smaller parts within a time limit, so that an error names the deepest part that is refused on its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from ..errors import SchemaRefused, SchemaTooComplex, UnsatisfiableSchema, UnsupportedKeyword
from ..json_schema import STRUCTURE, References, Where, below, draft_of, every_schema, mapped, pointer

Refuses = Callable[[Any], str | None]
"""The reason for refusing a document, or None."""
SECONDS: Final = 0.04
"""CPU seconds that locating a refusal may take."""
_UNRESOLVED: Final = ("not present in a registry", "does not exist")
"""Phrases in llguidance's reasons for references that it cannot follow."""
_INSIDE: Final = "only references inside the same schema can be followed"
_QUOTED_KEYS: Final = re.compile(r'Unimplemented keys: \["([^"]+)"')

_READ_WITH: Final = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
"""Keywords that jsonschema reads together with another one, and that one."""


def located(root: dict[str, Any], refuses: Refuses, reason: str, seconds: float = SECONDS) -> SchemaRefused:
    """The refusal of `root`, for `reason`, as an error at the deepest part that is refused on its own."""
    missing = next(References(root).unresolved(), None) if any(phrase in reason for phrase in _UNRESOLVED) else None
    if missing is not None:
        return UnsupportedKeyword(*missing, _INSIDE, checkable=False)
    search = _Search(root, refuses, seconds)
    path, part = "", root
    while (deeper := search.child(path, part)) is not None:
        path, part = deeper
    reason = (search.reason(part) if path else None) or reason
    keyword = search.blamed(part, reason)
    if keyword not in part:  # time was up before the part was found
        path = next((path + pointer(where) for where, schema in _schemas(part) if keyword in schema), path)
    place, hint = f"{path}/{pointer((keyword,))[1:]}" if keyword else path, _hint(reason, keyword)
    if keyword == "$ref" and not str(part[keyword]).startswith("#"):
        hint = _INSIDE  # llguidance resolves meta-schemas, and its reason is about those
    if reason.startswith("Unsatisfiable"):
        return UnsatisfiableSchema(place, keyword, hint)
    if any(phrase in reason for phrase in ("too large", "too complex", "too many", "limit", "fuel")):
        return SchemaTooComplex(place, keyword, hint)
    checkable = _checkable(root, keyword, part)
    if keyword == "format" and not checkable:
        hint += ", or ask for formats='annotate'"
    return UnsupportedKeyword(place, keyword, hint, checkable=checkable)


def _checkable(root: dict[str, Any], keyword: str, part: dict[str, Any]) -> bool:
    """Whether jsonschema checks the keyword in the document's draft, without fetching other documents."""
    kind = draft_of(root)
    if keyword == "format":
        return part.get(keyword) in kind.FORMAT_CHECKER.checkers
    return keyword != "$ref" and (keyword in kind.VALIDATORS or _READ_WITH.get(keyword) in kind.VALIDATORS)


def _hint(reason: str, keyword: str) -> str:
    """A hint from llguidance's reason, without the llguidance options that it names, because users cannot set them."""
    last = (reason.splitlines() or [""])[-1].removeprefix("error: ")
    if reason.startswith("oneOf"):
        return "its alternatives may hold at the same time; write anyOf, or tell them apart by a constant property"
    if keyword == "dependencies":
        return "drafts from 2019-09 on ignore it; write dependentRequired, or name draft-07 in $schema"
    if reason.startswith("Unimplemented keys"):
        return "the grammar engine does not know it"
    if reason.startswith("Unsatisfiable") and keyword == "oneOf":
        return "whatever fits one of its alternatives fits another one too; tell them apart, or write anyOf"
    if reason.startswith("Unsatisfiable"):
        return f"{last.removeprefix('Unsatisfiable schema: ')}; loosen it, or leave it out"
    if last.startswith("Unknown format"):
        return f"{last}; leave it out, or write it as a pattern"
    return last


class _Search:
    """Asks whether parts of one document are refused, each as a document of its own, within a time limit."""

    def __init__(self, root: dict[str, Any], refuses: Refuses, seconds: float) -> None:
        self._root, self._refuses, self._end = root, refuses, time.thread_time() + seconds
        self._used = frozenset(_references(root))
        # A part is asked about together with the whole document, under `$defs/whole`, where its references then lead.
        self._frame = {"$defs": {"whole": _reframed(root)}} if self._used else {}

    def reason(self, part: dict[str, Any]) -> str | None:
        """The reason for refusing the part alone; None where it is accepted or time is up."""
        if time.thread_time() > self._end:
            return None
        try:
            return self._refuses({**self._draft(), **_reframed(part), **self._frame} if self._frame else part)
        except SchemaRefused as error:
            return error.hint

    def child(self, path: str, part: Any) -> tuple[str, dict[str, Any]] | None:
        """The first refused part directly below; definitions come first, since others may refer to them."""
        found = [
            (path + pointer(where), child)
            for where, child in below(part)
            if isinstance(child, dict) and not str(child.get("$ref", "")).startswith("#")
        ]
        found = [one for one in found if not _definition(one[0]) or self._is_used(one[0])]
        found.sort(key=lambda one: not _definition(one[0]))
        return next((one for one in found if self.reason(one[1]) is not None), None)

    def blamed(self, part: dict[str, Any], reason: str) -> str:
        """The keyword of `part` without which it would be accepted; else the one that the reason names."""
        named = _QUOTED_KEYS.search(reason)
        if named and named.group(1) in part:
            return named.group(1)
        if reason.startswith("min/maxProperties"):
            return next((key for key in ("minProperties", "maxProperties") if key in part), "")
        for key in sorted(part, key=lambda key: key == "type"):  # without a type hardly anything is refused
            if time.thread_time() > self._end:
                break
            if key not in STRUCTURE and self.reason({k: v for k, v in part.items() if k != key}) is None:
                return key
        return named.group(1) if named else next((key for key in part if key not in STRUCTURE), "")

    def _draft(self) -> dict[str, Any]:
        return {key: self._root[key] for key in ("$schema",) if key in self._root}

    def _is_used(self, path: str) -> bool:
        return any(f"#{path}" == used or used.startswith(f"#{path}/") for used in self._used)


def _definition(path: str) -> bool:
    """Whether a path leads to a definition."""
    return path.rsplit("/", 2)[-2] in ("$defs", "definitions")


def _schemas(part: Any) -> Iterator[tuple[Where, Any]]:
    """The part and all schemas in it, each with its path from the part."""
    yield (), part
    for step, child in below(part):
        if isinstance(child, dict):
            yield from ((step + where, schema) for where, schema in _schemas(child))


def _references(part: Any) -> Iterator[str]:
    """The local references in the part, unquoted."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str) and part["$ref"].startswith("#"):
            yield unquote(part["$ref"])
        for _, child in below(part):
            yield from _references(child)


def _reframed(schema: Any) -> Any:
    """`schema` with its local references changed to lead to `$defs/whole`."""
    if not isinstance(schema, dict):
        return schema
    copy = mapped(schema, _reframed)
    target = schema.get("$ref")
    if isinstance(target, str) and (target == "#" or target.startswith("#/")):
        return {**copy, "$ref": f"#/$defs/whole{target[1:]}"}
    return copy


def overlapping(document: Any) -> SchemaRefused | None:
    """The refusal of a `oneOf` next to patterns of keys, which llguidance 1.9.1 accepts and does not enforce.

    llguidance ignores keys that match such patterns when it proves the alternatives disjoint; `rewrite.py` does not.
    """
    schemas = list(every_schema(document))
    if not {key for _, schema in schemas for key in schema} & {"patternProperties", "propertyNames"}:
        return None
    where = next((where for where, schema in schemas if "oneOf" in schema), None)
    hint = "next to patterns of keys several of its alternatives may hold; write anyOf, or tell them apart by a const"
    return None if where is None else UnsupportedKeyword(pointer((*where, "oneOf")), "oneOf", hint)
