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
from llguidance import LLTokenizer

from trimode.engine.constraint import Constraint, all_but, lone

from .keys import Quoted

_WORN: Final = 16
"""Times that signs of structure are taken before others come first, so that no loop is walked for ever; others: one."""
_FRONT: Final = 24
"""How many tokens of an order are tried one by one: the mask of a string has most of a large vocabulary."""
_NEAR: Final = 512
"""How many tokens of an order are looked at in a mask before all are."""
_SHORT: Final = 40
"""Completions up to this many tokens are good enough not to look for a shorter one."""
_LONG: Final = 400
"""Tokens of a completion before another way is tried."""

Ids = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Order:
    """All ids, the best first, and the place of each among them; `front`: those that are tried without a mask."""

    ids: Ids
    places: Ids

    @cached_property
    def front(self) -> list[int]:
        return [int(token) for token in self.ids[:_FRONT]]


class Place(IntEnum):
    """Where in JSON text the next character stands."""

    OUTSIDE = 0
    INSIDE = 1
    ESCAPED = 2


class Vocabulary:
    """One tokenizer's tokens by how much they close; the lowest rank is the best.

    What each id stands for is in `spelt` as bytes, in `latin` as a character a byte, in `texts` as text where that
    can be. `quoted`: tokens that may end a key; `behind(place, token)`: where a token leads. `end`, `going_on`: the
    masks that allow the end alone and everything else.
    """

    def __init__(self, tokenizer: LLTokenizer, size: int, ends: Sequence[int]) -> None:
        self._tokenizer, self.ends, self.all_ends = tokenizer, list(ends[:1]), list(ends)
        self.spelt = [tokenizer.decode_bytes([token]) for token in range(size)]
        self.latin = [spelt.decode("latin-1") for spelt in self.spelt]
        self.quoted = Quoted(self.latin)
        self.texts = texts = [spelt.decode("utf-8", "replace") for spelt in self.spelt]
        self.letters = {text: token for token, text in enumerate(texts) if len(text) == 1}
        self.outside, self.signs, self.words = (_ordered(texts, rank) for rank in (_outside, _signs, _words))
        self._closers = {False: _closers(texts, _outside), True: _closers(texts, _signs)}
        self.weights = [1 if set(text) <= set('{}[]":,') else _WORN for text in texts]
        self.behind = lru_cache(maxsize=None)(self._behind)
        self.words_of_mask = -(-size // 32)
        self.end = lone(self.ends[0], self.words_of_mask)
        self.going_on = all_but(self.all_ends, self.words_of_mask)

    def bytes_of(self, ending: Sequence[int]) -> int:
        """The length of an ending's text; its last token is an end."""
        return sum(len(self.spelt[token]) for token in ending) - len(self.spelt[ending[-1]])

    def rest(self, ending: Sequence[int], token: int) -> list[int] | None:
        """What is left of an ending behind `token`; None where its text does not begin with that of `token`."""
        text = self.spelt[token]
        for at, piece in enumerate(self.spelt[of] for of in ending[:-1]):
            if len(piece) >= len(text):
                behind = self._tokenizer.tokenize_bytes(piece[len(text) :])
                return [*behind, *ending[at + 1 :]] if piece.startswith(text) else None
            if not text.startswith(piece):
                return None
            text = text[len(piece) :]
        return None

    def closing(self, at: Constraint, place: Place) -> int | None:
        """The allowed token that closes most and does nothing else."""
        best, refused = None, list[str]()
        for token in self._closers[place is not Place.OUTSIDE]:
            text = self.texts[token]
            if text.startswith(tuple(refused)) or (best is not None and len(text) == len(self.texts[best])):
                continue
            if at.allows(token):
                best = token
            else:
                refused.append(text)
        return best

    def may_close(self, at: Constraint) -> bool:
        """Whether a string may end here."""
        forced = at.forced()
        return self.texts[forced].startswith('"') if forced is not None else at.allows(self.letters['"'])

    def preferred(self, at: Constraint, order: Order, taken: Ids) -> list[int]:
        """Of the allowed tokens, those taken least, the first in `order`, most often at the front; empty: none is."""
        front = next((token for token in order.front if taken[token] < _WORN and at.allows(token)), None)
        if front is not None:
            return [front]
        near = _among(at, order.ids[:_NEAR])
        fresh = near[taken[near] < _WORN]
        if fresh.size:
            return [int(fresh[0])]
        ids = _all_of(at)
        return [int(ids[(order.places[ids] + taken[ids] // _WORN * len(taken)).argmin()])] if ids.size else []

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
    """Completes the texts of one grammar.

    `hints`: texts that some of its strings may end with; `names`: of objects, those that some of them must have.
    """

    vocabulary: Vocabulary
    hints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def ending(self, start: Constraint, place: Place, limit: int) -> list[int] | None:
        """Tokens that complete the text from `start`, an end token last; None where more than `limit` were needed."""
        for most in (min(limit, _LONG), limit):
            best: list[int] | None = None
            for choose in (self._by_hint, self._by_words):
                best = self._walk(start.fork(), place, len(best) - 1 if best else most, choose) or best
                if best and len(best) <= _SHORT:
                    break
            if best or most == limit:
                return best
        return None

    def _walk(self, at: Constraint, place: Place, limit: int, choose: Choose) -> list[int] | None:
        found, taken = list[int](), np.zeros(len(self.vocabulary.texts), dtype=np.intp)
        while len(found) < limit:
            forced = at.forced()
            end = self._end(at, forced)
            if end is not None:
                return [*found, end]
            step = self._next(at, place, taken, choose) if forced is None else [forced]
            if not step or not at.allows(step[0]):
                return None
            for token in step:
                taken[token] += self.vocabulary.weights[token]
                found.append(token)
                place = self.vocabulary.behind(place, token)
                at.advance([token])
        return None

    def _end(self, at: Constraint, forced: int | None) -> int | None:
        if forced is not None:
            return forced if forced in self.vocabulary.ends else None
        return next((token for token in self.vocabulary.ends if at.allows(token)), None)

    def _next(self, at: Constraint, place: Place, taken: Ids, choose: Choose) -> list[int]:
        closing = self.vocabulary.closing(at, place)
        if closing is not None:
            return [closing]
        if place is Place.OUTSIDE:
            return self.vocabulary.preferred(at, self.vocabulary.outside, taken)
        return choose(at, taken)

    def _by_words(self, at: Constraint, taken: Ids) -> list[int]:
        return self.vocabulary.preferred(at, self.vocabulary.words, taken)

    def _by_hint(self, at: Constraint, taken: Ids) -> list[int]:
        if not self.vocabulary.may_close(at):
            path = next((path for text in (*self.names, *self._hint_ends) if (path := self._path(at, text))), None)
            if path is not None:
                return path
        return self.vocabulary.preferred(at, self.vocabulary.signs, taken)

    @cached_property
    def _hint_ends(self) -> list[str]:
        return sorted({hint[at:] for hint in self.hints for at in range(len(hint))}, key=lambda end: (len(end), end))

    def _path(self, start: Constraint, text: str) -> list[int]:
        """`text` by characters, or as it is forced; empty where it is refused or the string may not end then."""
        path, at = list[int](), start
        while text and (token := self._letter(at, text)) is not None:
            at = at.fork() if at is start else at
            at.advance([token])
            path.append(token)
            text = text[len(self.vocabulary.texts[token]) :]
        return path if path and not text and self._ended(at, path[-1]) else []

    def _letter(self, at: Constraint, text: str) -> int | None:
        """The first token of `text`; a forced one may go on behind it."""
        forced = at.forced()
        if forced is not None:
            piece = self.vocabulary.texts[forced]
            return forced if text.startswith(piece) or piece.startswith(text + '"') else None
        letter = self.vocabulary.letters.get(text[0])
        return letter if letter is not None and at.allows(letter) else None

    def _ended(self, at: Constraint, last: int) -> bool:
        return '"' in self.vocabulary.texts[last] or self.vocabulary.may_close(at)


Choose = Callable[[Constraint, Ids], list[int]]
"""Tokens to take next inside a string that may not end yet, given how often each was taken."""


def _among(at: Constraint, ids: Ids) -> Ids:
    """Those of `ids` that may come next."""
    mask = at.mask().numpy()
    found: Ids = ids[(mask[ids // 32] >> ids % 32 & 1).astype(bool)]
    return found


def _all_of(at: Constraint) -> Ids:
    """The ids that may come next."""
    mask = at.mask().numpy()
    words = np.flatnonzero(mask)
    word, bit = np.nonzero(np.unpackbits(mask[words].view(np.uint8), bitorder="little").reshape(-1, 32))
    ids: Ids = words[word] * 32 + bit
    return ids


def _ordered(texts: Sequence[str], rank: Callable[[str], int]) -> Order:
    """The lowest rank first."""
    ids = np.argsort(np.array([rank(text) for text in texts]), kind="stable")
    return Order(ids, np.argsort(ids))


def _closers(texts: Sequence[str], rank: Callable[[str], int]) -> list[int]:
    """The ids of rank below 0, the shortest text first: one that is refused rules out those that begin with it."""
    ids = (token for token, text in enumerate(texts) if rank(text) < 0)
    return sorted(ids, key=lambda token: len(texts[token]))


def _closes(text: str) -> bool:
    return all(letter in "}]" for letter in text)


def _outside(text: str) -> int:
    """Below 0 for what only closes, the more the lower; then short values; then what opens or goes on."""
    if text and _closes(text):
        return -len(text)
    if text in ("{}", "[]", '""'):
        return 1
    if text in (",", ',"'):  # behind a number, which could go on for ever
        return 1 + len(text)
    if text == '"':
        return 12
    if text.isascii() and text.isdigit():
        return 10 + len(text) ** 2
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
