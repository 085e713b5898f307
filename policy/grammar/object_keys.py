"""State of an unfinished JSON text that no grammar tracks: the keys of open objects, the size of an unfinished number.

Knows JSON's punctuation, and which part of a key or a number a token writes. Does not know grammars, masks or schemas.
Numbers that parsers read as infinite are refused, because JSON has no infinity and some parsers reject them. Texts are
bytes as Latin-1 characters, because a token may end inside a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from math import isinf
from typing import Final

_MARKS: Final = re.compile(r'[][{},"\\]')
_DIGIT: Final = re.compile(r"[-0-9]")
_LARGE: Final = re.compile(r"[eE][+]?\d{3}|\d{100}")
"""Text of a token that may make a number infinite which has no exponent and at most `_LONG` characters so far."""
_NUMERIC: Final = frozenset("+-.0123456789eE")
_LONG: Final = 100
"""Characters of a number from which on any further digit may make it infinite."""


class Position(Enum):
    """What the next character of the text belongs to."""

    VALUE = auto()
    NAME_NEXT = auto()
    NAME = auto()
    STRING = auto()


@dataclass(frozen=True, slots=True)
class ObjectKeys:
    """State of an unfinished JSON text.

    `open`: the keys of each open object from the outermost inwards, None for an array. `name`, `number`: the beginning
    of an unfinished key or number.
    """

    open: tuple[frozenset[str] | None, ...] = ()
    at: Position = Position.VALUE
    name: str = ""
    escaped: bool = False
    number: str = ""

    def after(self, text: str) -> ObjectKeys | None:
        """The state after `text`; None where `text` repeats a key of an object, or makes a number infinite."""
        counts = self.at is Position.VALUE and (self.number != "" or _DIGIT.search(text) is not None)
        if not self.escaped and not counts and _MARKS.search(text) is None:
            return ObjectKeys(self.open, self.at, self.name + text) if self.at is Position.NAME else self
        return _after(self, text)

    def refuses(self, text: str) -> bool:
        """Whether no state follows `text`; quickly answered where `text` ends no key and has no large number."""
        near = len(self.number) > _LONG or not {"e", "E"}.isdisjoint(self.number)
        return ('":' in text or near or _LARGE.search(text) is not None) and self.after(text) is None

    def continuations(self) -> list[str]:
        """The rests of the object's keys that begin like the unfinished key; none where that has an escape."""
        if self.at is not Position.NAME or not self.open or "\\" in self.name:
            return []
        written = map(_encoded_key, self.open[-1] or ())
        return [key[len(self.name) :] for key in written if key.startswith(self.name)]

    def step(self, character: str) -> ObjectKeys | None:
        """The state after one character, as `after`."""
        if self.at in (Position.NAME, Position.STRING):
            return self._string_step(character)
        match character:
            case '"':
                return ObjectKeys(self.open, Position.NAME if self.at is Position.NAME_NEXT else Position.STRING)
            case "{":
                return ObjectKeys((*self.open, frozenset()), Position.NAME_NEXT)
            case "[":
                return ObjectKeys((*self.open, None))
            case "}" | "]":
                return ObjectKeys(self.open[:-1])
            case ",":
                in_object = bool(self.open) and self.open[-1] is not None
                return ObjectKeys(self.open, Position.NAME_NEXT if in_object else Position.VALUE)
            case _:
                return self._number_step(character) if self.at is Position.VALUE else self

    def _number_step(self, character: str) -> ObjectKeys | None:
        """The state after one character of a number, or of `true`, `false`, `null`."""
        goes_on = character in _NUMERIC if self.number else character in "-0123456789"
        number = self.number + character if goes_on else ""
        return None if _infinite(number) else ObjectKeys(self.open, number=number)

    def _string_step(self, character: str) -> ObjectKeys | None:
        """The state after one character of a string or a key."""
        if not self.escaped and character == '"':
            return ObjectKeys(self.open) if self.at is Position.STRING else self._key_ended()
        name = self.name + character if self.at is Position.NAME else ""
        return ObjectKeys(self.open, self.at, name, not self.escaped and character == "\\")

    def _key_ended(self) -> ObjectKeys | None:
        """The state after the quote that ends a key; None where the object has that key."""
        key, keys = _decoded_key(self.name), self.open[-1] or frozenset()
        return None if key in keys else ObjectKeys((*self.open[:-1], keys | {key}))


@lru_cache(maxsize=4096)
def _after(keys: ObjectKeys, text: str) -> ObjectKeys | None:
    """`ObjectKeys.after`, cached because masks ask for the same tokens after the same text again and again."""
    state: ObjectKeys | None = keys
    for character in text:
        state = None if state is None else state.step(character)
    return state


class KeyTokens:
    """The tokens that can end a key or make a number infinite. `texts`: those of all tokens, as Latin-1."""

    def __init__(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        self.texts: dict[int, str] = {token: text for token, text in enumerate(texts) if '"' in text}
        self._digits = {token: text for token, text in enumerate(texts) if text and text[0] in _NUMERIC}
        self._large = {token: text for token, text in enumerate(texts) if _LARGE.search(text)}
        self._plain = dict[str, list[int]]()
        self._escaped = list[int]()
        self.duplicating: Callable[[ObjectKeys], list[int]] = lru_cache(maxsize=1024)(self._duplicating)
        for token, text in self.texts.items():
            head = text[: text.index('"')]
            self._plain.setdefault(head, []).append(token)
            if "\\" in head or text.count('"') > 2:
                self._escaped.append(token)
        self._many_quotes = [token for token, text in self.texts.items() if text.count('"') > 2]
        self._two_quotes = [token for token, text in self.texts.items() if text.count('"') > 1]

    def infinite(self, keys: ObjectKeys) -> list[int]:
        """The tokens that would make the unfinished number infinite."""
        if keys.at is not Position.VALUE:
            return []
        near = len(keys.number) > _LONG or not {"e", "E"}.isdisjoint(keys.number)
        tokens = self._digits | self._large if near else self._large
        return [token for token, text in tokens.items() if keys.after(text) is None]

    def _duplicating(self, keys: ObjectKeys) -> list[int]:
        """The tokens that would give an object a key that it has; `duplicating` caches them."""
        plain = (token for rest in keys.continuations() for token in self._plain.get(rest, ()))
        return [*plain, *(token for token in self._candidates(keys) if keys.after(self.texts[token]) is None)]

    def _candidates(self, keys: ObjectKeys) -> Iterable[int]:
        """Candidates besides the plain rests of known keys. Outside a key, a token needs two quotes to write one."""
        if keys.escaped or "\\" in keys.name:
            return self.texts
        if not any(keys.open) or keys.at is Position.STRING:
            return self._many_quotes
        return self._escaped if keys.at is Position.NAME else self._two_quotes


def _infinite(number: str) -> bool:
    """Whether the beginning of a number makes it infinite, whatever follows."""
    if len(number) <= 3:
        return False
    written = number.rstrip("eE+-")
    try:
        return len(written) > 3 and isinf(float(written))
    except ValueError:  # not a number: the grammar refuses it
        return False


def _decoded_key(name: str) -> str:
    """A key as JSON parsers read it. `name`: its text between the quotes, as Latin-1."""
    text = name.encode("latin-1").decode("utf-8", "replace")
    try:
        return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text
    except ValueError:  # half an escape
        return text


def _encoded_key(key: str) -> str:
    """The text of a key between the quotes, as Latin-1."""
    return json.dumps(key, ensure_ascii=False)[1:-1].encode().decode("latin-1")
