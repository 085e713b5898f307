"""Relaxation for the guarantee `checked`: a schema without the keywords that the grammar cannot enforce.

Knows schema documents, and which keywords allow more when something inside them is left out. Does not know tokens. Each
keyword left out is listed; the finished output is validated against the schema as given (`policy/calls/retries.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from ..errors import SchemaRefused, SchemaTooComplex, UnsupportedKeyword
from ..json_schema import Formats, References, pointer
from ..schema import Schema, Target, TurnTarget
from .compiler import check, place_in_tool

Json = Any
KEYWORDS: Final = 32
"""Number of keywords that may be left out of one schema."""
_BACKWARDS: Final = ("not", "if", "oneOf")
"""Keywords under which a part that allows more can make the whole allow less; they are left out as a whole."""
_TOGETHER: Final = {"if": ("then", "else"), "contains": ("minContains", "maxContains")}
"""Keywords that lose or change their meaning without the first one, and so are left out with it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A keyword that the grammar does not enforce. `instead`: a phrase on what the grammar allows instead."""

    pointer: str
    keyword: str
    instead: str = ""

    @property
    def note(self) -> str:
        more = f"; {self.instead}" if self.instead else ""
        return f"{self.keyword!r} at {self.pointer} is not in the grammar, and checked in the finished output{more}"


@dataclass(frozen=True)
class Relaxed:
    """A schema as the grammar enforces it, and the keywords left out of it (none: the schema itself)."""

    schema: Target
    dropped: tuple[Dropped, ...] = ()


def relaxed(schema: Target) -> Relaxed:
    """`schema` without the keywords that no grammar can enforce and jsonschema can check.

    Raises SchemaRefused where it is refused for another reason, or where more than KEYWORDS would be left out.
    """
    if not isinstance(schema, Schema):
        return Relaxed(schema)
    try:
        document, dropped = _relaxed(schema.text, schema.formats)
    except SchemaRefused as error:
        raise schema.refused(error) from None
    if not dropped:
        return Relaxed(schema)
    if (missing := next(References(schema.document).unresolved(), None)) is not None:
        hint = "what stands there cannot be checked, because only references inside the same schema can be followed"
        raise schema.refused(UnsupportedKeyword(*missing, hint, checkable=False))
    located = tuple(replace(one, pointer=place_in_tool(*schema.origin(one.pointer))) for one in dropped)
    return Relaxed(replace(schema, document=json.loads(document)), located)


def relaxed_turn(turn: TurnTarget) -> tuple[TurnTarget, tuple[Dropped, ...]]:
    """`turn` without the keywords of its schemas that no grammar can enforce, and those keywords; see `relaxed`."""
    calls = None if turn.calls is None else relaxed(turn.calls)
    answer = None if turn.answer is None else relaxed(turn.answer)
    dropped = [*(calls.dropped if calls else ()), *(answer.dropped if answer else ())]
    kept: Any = None if calls is None else calls.schema
    return replace(turn, calls=kept, answer=None if answer is None else answer.schema), tuple(dropped)


@lru_cache(maxsize=256)
def _relaxed(text: str, formats: Formats) -> tuple[str, tuple[Dropped, ...]]:
    state = _Relaxing(json.loads(text))
    while True:
        try:
            check(Schema(state.document, formats=formats))
            return json.dumps(state.document), tuple(state.dropped)
        except UnsupportedKeyword as error:
            if not error.checkable:
                raise
            if len(state.dropped) == KEYWORDS:
                raise SchemaTooComplex(
                    error.pointer,
                    error.keyword,
                    f"more than {KEYWORDS} keywords cannot be enforced; write others",
                ) from None
            try:
                state.drop(error.pointer)
            except (LookupError, TypeError, ValueError):  # the refusal was not located in time
                raise error from None


@dataclass
class _Relaxing:
    """A document being relaxed. `moved`: the new and the old pointer of each `oneOf` that became an `anyOf`."""

    document: Json
    dropped: list[Dropped] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)

    def drop(self, refused: str) -> None:
        """Leaves out the keyword at the pointer `refused`, or the outermost keyword of `_BACKWARDS` around it."""
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
        """A pointer in the schema as it was given."""
        for now, before in self.moved:
            if place.startswith(f"{now}/"):
                place = before + place.removeprefix(now)
        return place


def _instead(keyword: str, whole: dict[str, Json]) -> str:
    """A phrase on what the grammar allows in place of `keyword`; empty where the note needs none."""
    if keyword == "oneOf":
        return "any of its alternatives may be written"
    if keyword == "patternProperties" and "additionalProperties" in whole:
        return "keys that it alone allows are not written"
    return ""


def _keywords(document: Json, where: list[str]) -> list[str]:
    """The steps of a path, with an empty text for each step that is a name or an index and no keyword."""
    found, named, part = list[str](), False, document
    for step in where:
        keyword = "" if named or isinstance(part, list) else step
        found.append(keyword)
        part = part[int(step)] if isinstance(part, list) else part.get(step) if isinstance(part, dict) else None
        named = keyword in _NAMING
    return found


_NAMING: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose members are names with schemas."""


def _changed(part: Json, place: list[str], keyword: str) -> Json:
    """A copy of `part` without `keyword` at `place`; the alternatives of a `oneOf` are kept as an `anyOf`."""
    if place:
        step: Any = int(place[0]) if isinstance(part, list) else place[0]
        copy = part.copy()
        copy[step] = _changed(part[step], place[1:], keyword)
        return copy
    omitted = (keyword, *_TOGETHER.get(keyword, ()))
    copy = {key: value for key, value in part.items() if key not in omitted}
    if keyword == "oneOf":
        copy["allOf"] = [*copy.get("allOf", ()), {"anyOf": part["oneOf"]}]
    return copy
