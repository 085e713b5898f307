"""One tokenizer's tokens as those who complete JSON texts see them: what they write, where they lead, what they close.

Knows token texts, and where JSON strings begin and end. Does not know grammars or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLTokenizer
from torch import Tensor

from trimode.engine.token_mask import all_but, lone

from .object_keys import Quoted

WORN: Final = 16
"""Times that signs of structure are taken before others come first, so that no loop is walked for ever; others: one."""
_FRONT: Final = 24
"""How many tokens of an order are tried one by one: the mask of a string has most of a large vocabulary."""

Ids = npt.NDArray[np.intp]
Run = tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """All ids, the best first, and the place of each among them; `front`: those that are tried without a mask."""

    ids: Ids
    places: Ids

    @cached_property
    def front(self) -> list[int]:
        return [int(token) for token in self.ids[:_FRONT]]


class StringState(IntEnum):
    """Where in JSON text the next character stands."""

    OUTSIDE = 0
    INSIDE = 1
    ESCAPED = 2


class Vocabulary:
    """One tokenizer's tokens by how much they close; the lowest rank is the best.

    What each id stands for is in `spelt` as bytes, in `latin` as a character a byte, in `texts` as text where that
    can be. `quoted`: tokens that may end a key; `behind(place, token)`: where a token leads; `tokens_of(text)`:
    the tokenizer's own spelling; `steady(run)`: the front of a run of tokens that is spelled alike from each of them
    on. `filler`: the longest word of small letters. `end`, `going_on`: the masks that allow the end alone and
    everything else.
    """

    ends: list[int]
    all_ends: list[int]
    quoted: Quoted
    outside: Order
    signs: Order
    words: Order
    closers: dict[bool, list[int]]
    weights: list[int]
    words_of_mask: int

    def __init__(self, tokenizer: LLTokenizer, size: int, ends: Sequence[int]) -> None:
        self._tokenizer, self.ends, self.all_ends = tokenizer, list(ends[:1]), list(ends)
        self.spelt: list[bytes] = [tokenizer.decode_bytes([token]) for token in range(size)]
        self.latin: list[str] = [spelt.decode("latin-1") for spelt in self.spelt]
        self.quoted = Quoted(self.latin)
        texts = [spelt.decode("utf-8", "replace") for spelt in self.spelt]
        self.texts: list[str] = texts
        self.letters: dict[str, int] = {text: token for token, text in enumerate(texts) if len(text) == 1}
        self.outside, self.signs, self.words = (_ordered(texts, rank) for rank in (_outside, _signs, _words))
        self.closers = {False: _closers(texts, _outside), True: _closers(texts, _signs)}
        plain = (text for text in (texts[token] for token in self.words.ids) if text.isascii() and text.isalpha())
        self.filler: str = next((text for text in plain if text.islower()), "a")
        self.weights = [1 if set(text) <= set('{}[]":,') else WORN for text in texts]
        self.behind: Callable[[StringState, int], StringState] = lru_cache(maxsize=None)(self._behind)
        self.steady: Callable[[Run], Run] = lru_cache(maxsize=4096)(self._steady)
        self.tokens_of: Callable[[bytes], Run] = lru_cache(maxsize=4096)(self._tokens_of)
        self.words_of_mask = -(-size // 32)
        self.end: Tensor = lone(self.ends[0], self.words_of_mask)
        self.going_on: Tensor = all_but(self.all_ends, self.words_of_mask)

    def text_of(self, tokens: Iterable[int]) -> bytes:
        return b"".join([self.spelt[token] for token in tokens])

    def _tokens_of(self, text: bytes) -> Run:
        return tuple(self._tokenizer.tokenize_bytes(text))

    def _steady(self, run: Run) -> Run:
        texts = (self.text_of(run[at:]) for at in range(1, len(run)))
        odd = (at for at, text in enumerate(texts, start=1) if self._tokens_of(text) != run[at:])
        return run[: next(odd, len(run))]

    def _behind(self, place: StringState, token: int) -> StringState:
        for letter in self.texts[token]:
            if place is StringState.ESCAPED:
                place = StringState.INSIDE
            elif letter == '"':
                place = StringState.INSIDE if place is StringState.OUTSIDE else StringState.OUTSIDE
            elif letter == "\\" and place is StringState.INSIDE:
                place = StringState.ESCAPED
        return place


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
