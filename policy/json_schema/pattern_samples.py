"""Samples of the strings that a schema allows, as hints for the search for completions.

Knows keywords, and Python's parser of regular expressions, whose syntax is close to JSON Schema's. Does not know
grammars: a sample is a guess that the grammar then accepts or refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice, product
from typing import Any, Final

from .document import below
from .regex_dialect import is_slow

Json = Any
_parser: Final[Any] = import_module("re._parser")
_MOST: Final = 12
"""Number of samples of one pattern."""
_NAMES: Final = 200
"""Number of required names that are tried."""
FORMATS: Final = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "a@b.c",
    "hostname": "a",
    "ipv4": "0.0.0.0",
    "ipv6": "::1",
    "uri": "a:b",
    "uuid": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
}
"""A short text of each format that grammars enforce."""
_LONGEST: Final = 10_000
"""Characters of a repetition; longer ones are left out, because nested repetitions could have any length."""
_CATEGORIES: Final = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}
"""A character of each category of characters."""
_ANY: Final = "a0A_-. :/@"
"""Characters that are tried for a negated class."""
_HALF: Final = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which JSON text cannot contain."""


def samples_of(document: Json) -> list[str]:
    """Samples of every pattern and format in a schema, the shortest first."""
    found = dict.fromkeys(sample for pattern in _patterns(document) for sample in samples(pattern))
    found |= dict.fromkeys(FORMATS[one] for one in _strings(document, "format") if one in FORMATS)
    return sorted(found, key=len)


def names_of(document: Json) -> list[str]:
    """Names that some object in a schema must have."""
    required = (part["required"] for part in _parts(document) if isinstance(part.get("required"), list))
    found = dict.fromkeys(name for names in required for name in names if isinstance(name, str))
    return list(islice(found, _NAMES))


def samples(pattern: str) -> list[str]:
    """A few short texts that `pattern` matches; none where Python cannot read it."""
    try:
        found = [text for text in _sequence(_parser.parse(pattern)) if _HALF.search(text) is None]
        return found if is_slow(pattern) else [text for text in found if re.search(pattern, text)]
    except (re.error, RecursionError, OverflowError):
        return []


def _patterns(schema: Json) -> Iterator[str]:
    yield from _strings(schema, "pattern")
    for part in _parts(schema):
        if isinstance(named := part.get("patternProperties"), dict):
            yield from named


def _strings(schema: Json, keyword: str) -> Iterator[str]:
    return (part[keyword] for part in _parts(schema) if isinstance(part.get(keyword), str))


def _parts(schema: Json) -> Iterator[dict[str, Json]]:
    """The schema and all schemas in it."""
    stack = [schema]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield one
        stack.extend(child for _, child in below(one))


def _sequence(parts: Iterable[tuple[Any, Any]]) -> list[str]:
    """Samples of a parsed pattern."""
    texts = [""]
    for kind, what in parts:
        pairs = islice(product(texts, _of(str(kind), what)), _MOST)
        texts = [first + second for first, second in pairs]
    return texts


def _of(kind: str, what: Any) -> list[str]:
    """Samples of one part of a parsed pattern, of the parser's `kind` with the argument `what`."""
    match kind:
        case "LITERAL":
            return [chr(what)]
        case "NOT_LITERAL":
            return [next(character for character in _ANY if ord(character) != what)]
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
            texts = _sequence(inner) if least else [""]
            return [text * least for text in texts if len(text) * least <= _LONGEST]
        case _:  # anchors and assertions match no text
            return [""]


def _member(choices: list[tuple[Any, Any]]) -> str:
    """A character of a class."""
    if str(choices[0][0]) == "NEGATE":
        return next((character for character in _ANY if not _contains(choices[1:], character)), "a")
    return "a" if _contains(choices, "a") else _first(*choices[0])  # digits take more tokens than a repeated letter


def _first(kind: Any, what: Any) -> str:
    """The first character of one member of a class."""
    if str(kind) == "CATEGORY":
        return _CATEGORIES.get(str(what), "-")
    return chr(what[0] if str(kind) == "RANGE" else what)


def _contains(choices: list[tuple[Any, Any]], character: str) -> bool:
    """Whether a class contains a character."""
    for kind, what in choices:
        if str(kind) == "CATEGORY" and _CATEGORIES.get(str(what)) == character:
            return True
        low, high = what if str(kind) == "RANGE" else (what, what)
        if str(kind) != "CATEGORY" and low <= ord(character) <= high:
            return True
    return False
