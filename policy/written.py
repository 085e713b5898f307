"""Given data against a grammar: written as the grammar would write it, and walked token by token.

Knows schemas, the mask protocol and one tokenizer. Does not know how schemas are compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from trimode.engine.constraint import Constraint
from trimode.engine.token_mask import allows
from trimode.engine.tokenizer import Tokenizer

from .disjoint import Parts, parts_of, property_of
from .episodes import canonical
from .walk import Document, OutOfSteps

Json = Any


def texts_of(value: Json, document: Json) -> Iterator[str]:
    """Canonical texts of `value`: keys in the order of the schema, with its parts read in two orders, then as given."""
    try:
        for first in (True, False):
            yield canonical(_ordered(value, document, Document(document, 10**6), first))
    except (RecursionError, OutOfSteps):
        pass
    yield canonical(value)


def _ordered(value: Json, schema: Json, document: Document, own_first: bool) -> Json:
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
    """The schema and the first case of each `anyOf` and `oneOf` that fits, all the way down."""
    found: Parts = []
    for part in parts_of(schema, document):
        found.append(part)
        for key in ("anyOf", "oneOf"):
            cases = part.get(key, ()) if isinstance(part, dict) else ()
            fitting = next((case for case in cases if _may_fit(value, case, document)), True)
            found += _applicable(value, fitting, document)
    return found


def _may_fit(value: Json, case: Json, document: Document) -> bool:
    try:
        return document.fits(value, case)
    except OutOfSteps:  # a pattern that could take very long; any order will do then
        return True


def _item(parts: Parts, at: int) -> Json:
    held: list[Json] = []
    for part in parts:
        items = part.get("items", True) if isinstance(part, dict) else True
        listed = items if isinstance(items, list) else part.get("prefixItems") if isinstance(part, dict) else []
        first = listed if isinstance(listed, list) else []
        held.append(first[at] if at < len(first) else items if isinstance(items, dict) else True)
    return {"allOf": held}


class Walker:
    """Walks texts through matchers, token by token, each allowed by the mask before it is taken."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end

    def refused_at(self, matcher: Constraint, text: str) -> int | None:
        """Where in `text` the grammar refuses to go on (its length: it may not end there), None where it takes all."""
        at = 0
        while at < len(text):
            took = self._run(matcher, text[at:]) or self._other(matcher, text[at:])
            if not took:
                return at
            at += took
        return None if allows(matcher.mask(), self._end) else at

    def _run(self, matcher: Constraint, rest: str) -> int:
        """Takes the tokenizer's own tokens for `rest` as far as they are allowed; the number of characters taken."""
        ids, taken = self._tokenizer.encode(rest), 0
        while taken < len(ids) and allows(matcher.mask(), ids[taken]):
            matcher.advance(ids[taken : taken + 1])
            taken += 1
        said = self._tokenizer.decode(ids[:taken])
        return len(said) if rest.startswith(said) else 0

    def _other(self, matcher: Constraint, rest: str) -> int:
        """Takes the longest allowed token that `rest` begins with: inside a forced run only one spelling is allowed."""
        for length in range(min(len(rest), max(map(len, self._ids))), 0, -1):
            token = self._ids.get(rest[:length])
            if token is not None and allows(matcher.mask(), token):
                matcher.advance([token])
                return length
        return 0

    @cached_property
    def _ids(self) -> dict[str, int]:
        found = {self._tokenizer.token(token): token for token in reversed(range(self._tokenizer.vocab_size))}
        return {text: token for text, token in found.items() if text and text not in self._tokenizer.markers}
