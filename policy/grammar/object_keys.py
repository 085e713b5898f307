"""What an unfinished JSON text has that no grammar remembers: keys of open objects, the size of an unfinished number.

Knows JSON's signs and what tokens write of a key or a number. Does not know grammars, masks or schemas. A number that
readers take for infinite is none that JSON can hold, and some refuse it. Texts are bytes as Latin-1 characters, since a
token may end inside a character.
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
"""Of a token: what may make a number infinite that has no exponent and at most `_LONG` signs yet."""
_NUMERIC: Final = frozenset("+-.0123456789eE")
_LONG: Final = 100


class At(Enum):
    """Where in the text the next character stands."""

    VALUE = auto()
    NAME_NEXT = auto()
    NAME = auto()
    STRING = auto()


@dataclass(frozen=True, slots=True)
class ObjectKeys:
    """`open`: the keys of each open object from the outermost inwards, None for an array; `name`: a key's beginning;
    `number`: that of a number."""

    open: tuple[frozenset[str] | None, ...] = ()
    at: At = At.VALUE
    name: str = ""
    escaped: bool = False
    number: str = ""

    def behind(self, text: str) -> ObjectKeys | None:
        """The state after `text`; None where it gives an object a key that it has, or a number no reader can hold."""
        counts = self.at is At.VALUE and (self.number != "" or _DIGIT.search(text) is not None)
        if not self.escaped and not counts and _MARKS.search(text) is None:
            return ObjectKeys(self.open, self.at, self.name + text) if self.at is At.NAME else self
        return _behind(self, text)

    def refuses(self, text: str) -> bool:
        """Whether there is no state behind `text`; told at a glance where it ends no key and has no large number."""
        near = len(self.number) > _LONG or not {"e", "E"}.isdisjoint(self.number)
        return ('":' in text or near or _LARGE.search(text) is not None) and self.behind(text) is None

    def known(self) -> list[str]:
        """How a key that the object has would go on, where one is being written in plain signs."""
        if self.at is not At.NAME or not self.open or "\\" in self.name:
            return []
        written = map(_written, self.open[-1] or ())
        return [key[len(self.name) :] for key in written if key.startswith(self.name)]

    def step(self, letter: str) -> ObjectKeys | None:
        """`behind` of one character."""
        if self.at in (At.NAME, At.STRING):
            return self._inside(letter)
        match letter:
            case '"':
                return ObjectKeys(self.open, At.NAME if self.at is At.NAME_NEXT else At.STRING)
            case "{":
                return ObjectKeys((*self.open, frozenset()), At.NAME_NEXT)
            case "[":
                return ObjectKeys((*self.open, None))
            case "}" | "]":
                return ObjectKeys(self.open[:-1])
            case ",":
                in_object = bool(self.open) and self.open[-1] is not None
                return ObjectKeys(self.open, At.NAME_NEXT if in_object else At.VALUE)
            case _:
                return self._counted(letter) if self.at is At.VALUE else self

    def _counted(self, letter: str) -> ObjectKeys | None:
        """Within a number, or a word."""
        goes_on = letter in _NUMERIC if self.number else letter in "-0123456789"
        number = self.number + letter if goes_on else ""
        return None if _infinite(number) else ObjectKeys(self.open, number=number)

    def _inside(self, letter: str) -> ObjectKeys | None:
        if not self.escaped and letter == '"':
            return ObjectKeys(self.open) if self.at is At.STRING else self._named()
        name = self.name + letter if self.at is At.NAME else ""
        return ObjectKeys(self.open, self.at, name, not self.escaped and letter == "\\")

    def _named(self) -> ObjectKeys | None:
        key, keys = _read(self.name), self.open[-1] or frozenset()
        return None if key in keys else ObjectKeys((*self.open[:-1], keys | {key}))


@lru_cache(maxsize=4096)
def _behind(keys: ObjectKeys, text: str) -> ObjectKeys | None:
    """Kept, because masks ask for the same tokens behind the same text again and again."""
    state: ObjectKeys | None = keys
    for letter in text:
        state = None if state is None else state.step(letter)
    return state


class Quoted:
    """The tokens that can end a key, by what they write of it. `texts`: of all tokens."""

    texts: dict[int, str]

    def __init__(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        self.texts = {token: text for token, text in enumerate(texts) if '"' in text}
        self._digits = {token: text for token, text in enumerate(texts) if text and text[0] in _NUMERIC}
        self._large = {token: text for token, text in enumerate(texts) if _LARGE.search(text)}
        self._plain = dict[str, list[int]]()
        self._odd = list[int]()
        self.doubling: Callable[[ObjectKeys], list[int]] = lru_cache(maxsize=1024)(self._doubling)
        for token, text in self.texts.items():
            head = text[: text.index('"')]
            self._plain.setdefault(head, []).append(token)
            if "\\" in head or text.count('"') > 2:
                self._odd.append(token)
        self._often = [token for token, text in self.texts.items() if text.count('"') > 2]
        self._twice = [token for token, text in self.texts.items() if text.count('"') > 1]

    def infinite(self, keys: ObjectKeys) -> list[int]:
        """The tokens that would make a number infinite."""
        if keys.at is not At.VALUE:
            return []
        near = len(keys.number) > _LONG or not {"e", "E"}.isdisjoint(keys.number)
        tokens = self._digits | self._large if near else self._large
        return [token for token, text in tokens.items() if keys.behind(text) is None]

    def _doubling(self, keys: ObjectKeys) -> list[int]:
        """`doubling`: the tokens that would give an object a key that it has."""
        plain = (token for rest in keys.known() for token in self._plain.get(rest, ()))
        return [*plain, *(token for token in self._suspects(keys) if keys.behind(self.texts[token]) is None)]

    def _suspects(self, keys: ObjectKeys) -> Iterable[int]:
        """Those that might, and are no plain end of a known key: where none is being written, one takes two quotes."""
        if keys.escaped or "\\" in keys.name:
            return self.texts
        if not any(keys.open) or keys.at is At.STRING:
            return self._often
        return self._odd if keys.at is At.NAME else self._twice


def _infinite(number: str) -> bool:
    """Whether what is written of a number makes it infinite however it goes on."""
    if len(number) <= 3:
        return False
    written = number.rstrip("eE+-")
    try:
        return len(written) > 3 and isinf(float(written))
    except ValueError:  # no number, which is the grammar's business
        return False


def _read(name: str) -> str:
    """A key as readers take it."""
    text = name.encode("latin-1").decode("utf-8", "replace")
    try:
        return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text
    except ValueError:  # half an escape
        return text


def _written(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)[1:-1].encode().decode("latin-1")
