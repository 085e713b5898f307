"""A weaker schema that the grammar can hold, where it cannot hold the schema itself: the first half of tier `checked`.

Knows schema documents, and which keywords let more pass when something inside them goes. Does not know tokens. What is
left out is listed, never silent; the finished output is checked against the schema as it was given (`checked.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from ..errors import SchemaRefused, SchemaTooComplex, UnsupportedKeyword
from ..json_schema import Formats, References, pointer
from ..schema import Schema, Target
from .compiler import check, told

Json = Any
KEYWORDS: Final = 32
"""Keywords that may be left out of one schema."""
_BACKWARDS: Final = ("not", "if", "oneOf")
"""Under these, a part that allows more can make the whole allow less."""
_TOGETHER: Final = {"if": ("then", "else"), "contains": ("minContains", "maxContains")}
"""Keywords that say nothing, or something else, without the first one."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A keyword that the grammar does not hold. `instead`: what it holds in its place, in words."""

    pointer: str
    keyword: str
    instead: str = ""

    @property
    def note(self) -> str:
        more = f"; {self.instead}" if self.instead else ""
        return f"{self.keyword!r} at {self.pointer} is not in the grammar, and checked in the finished output{more}"


@dataclass(frozen=True)
class Relaxed:
    """What the grammar holds of a schema. Without `dropped`, that is the schema itself."""

    schema: Target
    dropped: tuple[Dropped, ...] = ()


def relaxed(schema: Target) -> Relaxed:
    """`schema` without the keywords that no grammar can hold and jsonschema can check.

    Raises SchemaRefused where something else is in the way, or where more than KEYWORDS had to go.
    """
    if not isinstance(schema, Schema):
        return Relaxed(schema)
    try:
        document, dropped = _relaxed(schema.text, schema.formats)
    except SchemaRefused as error:
        raise schema.refused(error) from None
    if not dropped:
        return Relaxed(schema)
    if (lost := next(References(schema.document).unresolved(), None)) is not None:
        hint = "what stands there cannot be checked, because only references inside the same schema can be followed"
        raise schema.refused(UnsupportedKeyword(*lost, hint, checkable=False))
    placed = tuple(replace(one, pointer=told(*schema.origin(one.pointer))) for one in dropped)
    return Relaxed(replace(schema, document=json.loads(document)), placed)


@lru_cache(maxsize=256)
def _relaxed(text: str, formats: Formats) -> tuple[str, tuple[Dropped, ...]]:
    left = _Left(json.loads(text))
    while True:
        try:
            check(Schema(left.document, formats=formats))
            return json.dumps(left.document), tuple(left.dropped)
        except UnsupportedKeyword as error:
            if not error.checkable:
                raise
            if len(left.dropped) == KEYWORDS:
                raise SchemaTooComplex(
                    error.pointer, error.keyword, f"more than {KEYWORDS} keywords cannot be held; write them otherwise"
                ) from None
            try:
                left.drop(error.pointer)
            except (LookupError, TypeError, ValueError):  # looking for the place took longer than it may
                raise error from None


@dataclass
class _Left:
    """What is left of a document. `moved`: where alternatives of a `oneOf` are now, and where they were."""

    document: Json
    dropped: list[Dropped] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)

    def drop(self, refused: str) -> None:
        """Leaves out the refused keyword, or what it stands in where that reads its parts backwards."""
        where = [step.replace("~1", "/").replace("~0", "~") for step in refused.split("/")[1:]]
        at = next((i for i, part in enumerate(_keywords(self.document, where)) if part in _BACKWARDS), len(where) - 1)
        place, keyword = where[:at], where[at]
        whole = self._place(place)
        if not isinstance(whole, dict) or keyword not in whole:
            raise LookupError(refused)
        self.document = _changed(self.document, place, keyword)
        self.dropped.append(Dropped(self._given(pointer(tuple(where[: at + 1]))), keyword, _instead(keyword, whole)))
        if keyword == "oneOf":
            now = pointer((*place, "allOf", len(whole.get("allOf", ())), "anyOf"))
            self.moved.insert(0, (now, pointer((*place, keyword))))

    def _place(self, place: list[str]) -> Json:
        part = self.document
        for step in place:
            part = part[int(step)] if isinstance(part, list) else part[step]
        return part

    def _given(self, place: str) -> str:
        """A pointer as it reads in the schema that was given."""
        for now, before in self.moved:
            if place.startswith(f"{now}/"):
                place = before + place.removeprefix(now)
        return place


def _instead(keyword: str, whole: dict[str, Json]) -> str:
    if keyword == "oneOf":
        return "any of its alternatives may be written"
    if keyword == "patternProperties" and "additionalProperties" in whole:
        return "keys that it alone allows are not written"
    return ""


def _keywords(document: Json, where: list[str]) -> list[str]:
    """The steps of a place, those left empty that are names, not keywords."""
    found, named, part = list[str](), False, document
    for step in where:
        keyword = "" if named or isinstance(part, list) else step
        found.append(keyword)
        part = part[int(step)] if isinstance(part, list) else part.get(step) if isinstance(part, dict) else None
        named = keyword in _NAMING
    return found


_NAMING: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


def _changed(part: Json, place: list[str], keyword: str) -> Json:
    """A copy of `part` without `keyword` at `place`; the alternatives of a `oneOf` stay, as those of an `anyOf`."""
    if place:
        step: Any = int(place[0]) if isinstance(part, list) else place[0]
        made = part.copy()
        made[step] = _changed(part[step], place[1:], keyword)
        return made
    gone = (keyword, *_TOGETHER.get(keyword, ()))
    made = {key: value for key, value in part.items() if key not in gone}
    if keyword == "oneOf":
        made["allOf"] = [*made.get("allOf", ()), {"anyOf": part["oneOf"]}]
    return made
