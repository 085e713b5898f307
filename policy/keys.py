"""Which keys the open objects of an unfinished JSON text have: no grammar remembers those it did not name itself.

Knows JSON's signs, what tokens write of a key, and which schemas leave objects open. Does not know grammars or masks.
Texts are bytes as Latin-1 characters, since a token may end inside a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .walk import below

_MARKS: Final = re.compile(r'[][{},"\\]')
_ELSEWHERE: Final = {"$ref", "enum", "const", "allOf", "anyOf", "oneOf"}
_OBJECT: Final = {"properties", "patternProperties", "additionalProperties", "required"}


class At(Enum):
    """Where in the text the next character stands."""

    VALUE = auto()
    NAME_NEXT = auto()
    NAME = auto()
    STRING = auto()


@dataclass(frozen=True, slots=True)
class Keys:
    """`open`: the keys of each open object from the outermost inwards, None for an array; `name`: a key's beginning."""

    open: tuple[frozenset[str] | None, ...] = ()
    at: At = At.VALUE
    name: str = ""
    escaped: bool = False

    def behind(self, text: str) -> Keys | None:
        """The state after `text`; None where it gives an object a key that it has."""
        if not self.escaped and _MARKS.search(text) is None:
            return self if self.at is not At.NAME else Keys(self.open, At.NAME, self.name + text)
        state: Keys | None = self
        for letter in text:
            state = None if state is None else state._behind(letter)
        return state

    def known(self) -> list[str]:
        """How a key that the object has would go on, where one is being written in plain signs."""
        if self.at is not At.NAME or not self.open or "\\" in self.name:
            return []
        written = map(_written, self.open[-1] or ())
        return [key[len(self.name) :] for key in written if key.startswith(self.name)]

    def step(self, letter: str) -> Keys | None:
        """`behind` of one character."""
        if self.at in (At.NAME, At.STRING):
            return self._inside(letter)
        match letter:
            case '"':
                return Keys(self.open, At.NAME if self.at is At.NAME_NEXT else At.STRING)
            case "{":
                return Keys((*self.open, frozenset()), At.NAME_NEXT)
            case "[":
                return Keys((*self.open, None))
            case "}" | "]":
                return Keys(self.open[:-1])
            case ",":
                in_object = bool(self.open) and self.open[-1] is not None
                return Keys(self.open, At.NAME_NEXT if in_object else At.VALUE)
            case _:
                return self

    def _inside(self, letter: str) -> Keys | None:
        if not self.escaped and letter == '"':
            return Keys(self.open) if self.at is At.STRING else self._named()
        name = self.name + letter if self.at is At.NAME else ""
        return Keys(self.open, self.at, name, not self.escaped and letter == "\\")

    def _named(self) -> Keys | None:
        key, keys = _read(self.name), self.open[-1] or frozenset()
        return None if key in keys else Keys((*self.open[:-1], keys | {key}))


class Suspects:
    """Some tokens, ready to be looked up in masks."""

    def __init__(self, ids: npt.NDArray[np.intp]) -> None:
        self._ids, self._words = ids, ids // 32
        self._bits = np.uint32(1) << (ids % 32).astype(np.uint32)

    def among(self, row: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Those that mask `row` allows."""
        return self._ids[np.flatnonzero(row[self._words] & self._bits)]


class Quoted:
    """The tokens that can end a key, by what they write of it. `texts`: of all tokens."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        quoted = [token for token, text in enumerate(texts) if '"' in text]
        heads = {token: texts[token][: texts[token].index('"')] for token in quoted}
        self._plain = dict[str, list[int]]()
        for token, head in heads.items():
            self._plain.setdefault(head, []).append(token)
        ids = np.array(quoted, dtype=np.intp)
        quotes = np.array([texts[token].count('"') for token in quoted])
        escaped = np.array(["\\" in head for head in heads.values()], dtype=bool)
        self._all, self._often, self._twice = Suspects(ids), Suspects(ids[quotes > 2]), Suspects(ids[quotes > 1])
        self._odd = Suspects(ids[escaped | (quotes > 2)])

    def doubling(self, keys: Keys, row: npt.NDArray[np.uint32]) -> list[int]:
        """Of the tokens that mask `row` allows, those that would give an object a key that it has."""
        plain = (token for rest in keys.known() for token in self._plain.get(rest, ()))
        odd = self._suspects(keys).among(row)
        return [*plain, *(int(token) for token in odd if keys.behind(self._texts[token]) is None)]

    def _suspects(self, keys: Keys) -> Suspects:
        """Those that might, and are no plain end of a known key: where none is being written, one takes two quotes."""
        if keys.escaped or "\\" in keys.name:
            return self._all
        if not any(keys.open) or keys.at is At.STRING:
            return self._often
        return self._odd if keys.at is At.NAME else self._twice


def may_repeat(document: Any) -> bool:
    """Whether some object of the schema takes keys that it does not name."""
    stack = [document]
    while stack:
        part = stack.pop()
        if part is True or (isinstance(part, dict) and _open(part)):
            return True
        stack.extend(child for _, child in below(part))
    return False


def _open(part: dict[str, Any]) -> bool:
    """Whether the part itself lets an object have any key; what it refers to or combines is asked on its own."""
    if "object" not in part.get("type", "object") or (_ELSEWHERE & set(part) and not _OBJECT & set(part)):
        return False
    return part.get("additionalProperties") is not False or bool(part.get("patternProperties"))


def _read(name: str) -> str:
    """A key as readers take it."""
    text = name.encode("latin-1").decode("utf-8", "replace")
    try:
        return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text
    except ValueError:  # half an escape
        return text


def _written(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)[1:-1].encode().decode("latin-1")
