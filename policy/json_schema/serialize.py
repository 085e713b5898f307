"""Serialization of values as canonical JSON text: no spaces, keys in the order of their schema, as grammars want.

Knows schemas and values. Does not know grammars or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .disjoint import Parts, parts_of, property_of
from .document import Document, OutOfSteps

Json = Any


def canonical(value: Json) -> str:
    """The canonical text of a value: no spaces, literal UTF-8, keys in the given order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def texts_of(value: Json, document: Json) -> Iterator[str]:
    """Canonical texts of `value`: keys in the order of the schema (its parts read in two orders), then as given."""
    try:
        for first in (True, False):
            yield canonical(_ordered(value, document, Document(document, 10**6), first))
    except (RecursionError, OutOfSteps):
        pass
    yield canonical(value)


def _ordered(value: Json, schema: Json, document: Document, own_first: bool) -> Json:
    """`value` with its keys in the order of `schema`. `own_first`: its own keywords before its `allOf` and cases."""
    if not isinstance(value, dict | list):
        return value
    parts = _applicable(value, schema, document)
    if isinstance(value, list):
        return [_ordered(item, _item(parts, at), document, own_first) for at, item in enumerate(value)]
    named = [part for part in (parts if own_first else parts[::-1]) if isinstance(part, dict)]
    order = dict.fromkeys(name for part in named for name in part.get("properties", ()))
    order |= dict.fromkeys(name for part in named for name in part.get("required", ()))
    names = [*(name for name in order if name in value), *(name for name in value if name not in order)]
    return {name: _ordered(value[name], property_of(parts, name, document), document, own_first) for name in names}


def _applicable(value: Json, schema: Json, document: Document) -> Parts:
    """The parts of the schema, with those of the first case of each `anyOf` and `oneOf` that fits `value`."""
    found: Parts = []
    for part in parts_of(schema, document):
        found.append(part)
        for key in ("anyOf", "oneOf"):
            cases = part.get(key, ()) if isinstance(part, dict) else ()
            fitting = next((case for case in cases if _may_fit(value, case, document)), True)
            found += _applicable(value, fitting, document)
    return found


def _may_fit(value: Json, case: Json, document: Document) -> bool:
    """Whether a case fits `value`, or that cannot be told."""
    try:
        return document.fits(value, case)
    except OutOfSteps:  # a slow pattern: any order of keys will do
        return True


def _item(parts: Parts, at: int) -> Json:
    """The schema of the item at index `at`."""
    schemas: list[Json] = []
    for part in parts:
        items = part.get("items", True) if isinstance(part, dict) else True
        listed = items if isinstance(items, list) else part.get("prefixItems") if isinstance(part, dict) else []
        first = listed if isinstance(listed, list) else []
        schemas.append(first[at] if at < len(first) else items if isinstance(items, dict) else True)
    return {"allOf": schemas}
