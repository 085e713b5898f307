"""Short texts that regular expressions match, to try where a grammar's masks do not show the way to the end.

Knows Python's parser of regular expressions, whose syntax is close to JSON Schema's. What it gives are guesses: a
grammar has the last word on each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice, product
from typing import Any, Final

from .dialect import is_slow
from .walk import below

Json = Any
_parser: Final[Any] = import_module("re._parser")
_MOST: Final = 12
"""Samples of one expression."""
_LONGEST: Final = 10_000
"""Characters; a repetition beyond is left out, since repetitions of repetitions could ask for any length."""
_CATEGORIES: Final = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}
_ANY: Final = "a0A_-. :/@"


def samples_of(document: Json) -> list[str]:
    """Samples of every pattern in a schema, the shortest first."""
    found = dict.fromkeys(sample for pattern in _patterns(document) for sample in samples(pattern))
    return sorted(found, key=len)


def samples(pattern: str) -> list[str]:
    """A few short texts that `pattern` matches; none where Python cannot read it."""
    try:
        found = _sequence(_parser.parse(pattern))
        return found if is_slow(pattern) else [text for text in found if re.search(pattern, text)]
    except (re.error, RecursionError, OverflowError):
        return []


def _patterns(schema: Json) -> Iterator[str]:
    stack = [schema]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if isinstance(pattern := one.get("pattern"), str):
                yield pattern
            if isinstance(named := one.get("patternProperties"), dict):
                yield from named
        stack.extend(child for _, child in below(one))


def _sequence(parts: Iterable[tuple[Any, Any]]) -> list[str]:
    made = [""]
    for kind, what in parts:
        pairs = islice(product(made, _of(str(kind), what)), _MOST)
        made = [first + second for first, second in pairs]
    return made


def _of(kind: str, what: Any) -> list[str]:
    match kind:
        case "LITERAL":
            return [chr(what)]
        case "NOT_LITERAL":
            return [next(letter for letter in _ANY if ord(letter) != what)]
        case "ANY":
            return ["a"]
        case "IN":
            return [_member(what)]
        case "BRANCH":
            return [text for branch in what[1] for text in _sequence(branch)][:_MOST]
        case "SUBPATTERN":
            return _sequence(what[3])
        case "ATOMIC_GROUP":
            return _sequence(what)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, _, inner = what
            made = _sequence(inner) if least else [""]
            return [text * least for text in made if len(text) * least <= _LONGEST]
        case _:  # anchors and assertions stand for no text
            return [""]


def _member(choices: list[tuple[Any, Any]]) -> str:
    if str(choices[0][0]) == "NEGATE":
        return next((letter for letter in _ANY if not _holds(choices[1:], letter)), "a")
    return _letter(*choices[0])


def _letter(kind: Any, what: Any) -> str:
    if str(kind) == "CATEGORY":
        return _CATEGORIES.get(str(what), "-")
    return chr(what[0] if str(kind) == "RANGE" else what)


def _holds(choices: list[tuple[Any, Any]], letter: str) -> bool:
    for kind, what in choices:
        if str(kind) == "CATEGORY" and _CATEGORIES.get(str(what)) == letter:
            return True
        low, high = what if str(kind) == "RANGE" else (what, what)
        if str(kind) != "CATEGORY" and low <= ord(letter) <= high:
            return True
    return False
