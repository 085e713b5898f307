"""How an unfinished text can be ended: short completions, found by walking a grammar's masks.

Knows token texts, where JSON strings begin and end, and the mask protocol. Does not know schemas. A completion is found
by always taking, of the allowed tokens, the one that closes most; of those that close nothing, the one taken least so
far, so that no loop of a pattern is walked for ever. Inside strings a pattern wants many different characters and a
least length wants long tokens, so both are tried, and where neither comes to an end, texts that patterns are known to
match. What is found is short but not always the shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from trimode.engine.constraint import Constraint, allows

_TAKEN: Final = 1 << 20
"""What having been taken once weighs: more than any difference between tokens that close nothing."""
_SHORT: Final = 40
"""Completions up to this many tokens are good enough not to look for a shorter one."""

Ranks = npt.NDArray[np.int64]
Ids = npt.NDArray[np.intp]


class Place(IntEnum):
    """Where in JSON text the next character stands."""

    OUTSIDE = 0
    INSIDE = 1
    ESCAPED = 2


class Vocabulary:
    """One tokenizer's tokens by how much they close; the lowest rank is the best.

    `texts`: what each id stands for; `opened`: how many keys, values and cases each may begin.
    """

    def __init__(self, texts: Sequence[str], ends: Sequence[int]) -> None:
        self.texts, self.ends = texts, ends
        self.letters = {text: token for token, text in enumerate(texts) if len(text) == 1}
        self.outside, self.signs, self.words = (_ranks(texts, rank) for rank in (_outside, _signs, _words))
        self.opened = [sum(letter in '"{[,' for letter in text) for text in texts]
        self.behind = lru_cache(maxsize=None)(self._behind)

    def allowed(self, at: Constraint) -> Ids:
        """The ids that may come next."""
        bits = np.unpackbits(at.mask().numpy().view(np.uint8), count=len(self.texts), bitorder="little")
        return np.flatnonzero(bits)

    def may_close(self, allowed: Ids) -> bool:
        """Whether a string may end here."""
        return bool((self.signs[allowed] <= 0).any())

    def _behind(self, place: Place, token: int) -> Place:
        for letter in self.texts[token]:
            if place is Place.ESCAPED:
                place = Place.INSIDE
            elif letter == '"':
                place = Place.INSIDE if place is Place.OUTSIDE else Place.OUTSIDE
            elif letter == "\\" and place is Place.INSIDE:
                place = Place.ESCAPED
        return place


@dataclass(frozen=True)
class Closer:
    """Completes the texts of one grammar. `hints`: texts that some of its strings may end with."""

    vocabulary: Vocabulary
    hints: tuple[str, ...] = ()

    def ending(self, start: Constraint, place: Place, limit: int) -> list[int] | None:
        """Tokens that complete the text from `start`, an end token last; None where more than `limit` were needed."""
        best = self._walk(start.fork(), place, limit, self._by(self.vocabulary.signs))
        if best is None or len(best) > _SHORT:
            longest = self._by(self.vocabulary.words)
            best = self._walk(start.fork(), place, len(best) - 1 if best else limit, longest) or best
        return best or (self._walk(start.fork(), place, limit, self._by_hint) if self.hints else None)

    def _walk(self, at: Constraint, place: Place, limit: int, choose: Choose) -> list[int] | None:
        found, taken = list[int](), np.zeros(len(self.vocabulary.texts), dtype=np.int64)
        while len(found) < limit:
            allowed = self.vocabulary.allowed(at)
            end = next((token for token in self.vocabulary.ends if token in allowed), None)
            if end is not None:
                return [*found, end]
            for token in choose(at, place, allowed, taken):
                taken[token] += _TAKEN
                found.append(token)
                place = self.vocabulary.behind(place, token)
                at.advance([token])
        return None

    def _by(self, inside: Ranks) -> Choose:
        def choose(_: Constraint, place: Place, allowed: Ids, taken: Ranks) -> list[int]:
            rank = (self.vocabulary.outside if place is Place.OUTSIDE else inside)[allowed]
            return [int(allowed[(rank + np.where(rank < 0, 0, taken[allowed])).argmin()])]

        return choose

    def _by_hint(self, at: Constraint, place: Place, allowed: Ids, taken: Ranks) -> list[int]:
        if place is not Place.OUTSIDE and len(allowed) > 1 and not self.vocabulary.may_close(allowed):
            for hint in self._hint_ends:
                if path := self._path(at.fork(), hint):
                    return path
        return self._by(self.vocabulary.signs)(at, place, allowed, taken)

    @cached_property
    def _hint_ends(self) -> list[str]:
        return sorted({hint[at:] for hint in self.hints for at in range(len(hint))}, key=lambda end: (len(end), end))

    def _path(self, at: Constraint, text: str) -> list[int]:
        """`text` as tokens of one character each; empty where the grammar refuses it or the string may not end then."""
        path = [self.vocabulary.letters.get(letter, -1) for letter in text]
        for token in path:
            if token < 0 or not allows(at.mask(), token):
                return []
            at.advance([token])
        return path if self.vocabulary.may_close(self.vocabulary.allowed(at)) else []


Choose = Callable[[Constraint, Place, Ids, Ranks], list[int]]
"""Tokens to take next, given where the text stands, what is allowed, and how often each token was taken."""


def _ranks(texts: Sequence[str], rank: Callable[[str], int]) -> Ranks:
    return np.array([rank(text) for text in texts], dtype=np.int64)


def _closes(text: str) -> bool:
    return all(letter in "}]" for letter in text)


def _outside(text: str) -> int:
    """Below 0 for what only closes, the more the lower; then short values; then what opens or goes on."""
    if text and _closes(text):
        return -len(text)
    if text in ("{}", "[]", '""'):
        return 1
    if text.isascii() and text.isdigit():
        return 10 + len(text)
    if text == '"':
        return 20
    return 100 * (1 + sum(letter in ',:[{-"' for letter in text)) + 50 - min(len(text), 50)


def _signs(text: str) -> int:
    """Inside a string: below 0 for what ends it and then only closes; then single signs, digits, letters, the rest."""
    if text.startswith('"'):
        return -len(text) if _closes(text[1:]) else 0
    if len(text) != 1 or not text.isascii() or text == "\\":
        return 1000 + (0 if text.isascii() else 1000)
    return 300 if text.isspace() else 200 if text.isalpha() else 100 if text.isdigit() else 50


def _words(text: str) -> int:
    """Inside a string: below 0 for what ends it and then only closes; then plain text, the longest first."""
    if text.startswith('"'):
        return -len(text) if _closes(text[1:]) else 0
    plain = text.isascii() and "\\" not in text
    return (100 if plain else 1000) + 50 - min(len(text), 50)
