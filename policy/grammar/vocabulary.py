"""One tokenizer's tokens, ranked for completing JSON texts: what each writes and how much of the text it closes.

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

from trimode.engine.token_mask import Mask, all_but, lone

from .object_keys import KeyTokens

REPEATS: Final = 16
"""How often a completion search takes a structural token (brackets, quotes, comma, colon) before it prefers others; any
other token after one. The limit ends loops in a grammar."""
_FRONT: Final = 24
"""Number of tokens of an order that are tried one by one before a mask is computed, because the mask inside a string
allows most of a large vocabulary."""

Ids = npt.NDArray[np.intp]
Run = tuple[int, ...]
"""Consecutive token ids."""


@dataclass(frozen=True)
class Order:
    """All token ids, the preferred ones first, and the position of each id in that order."""

    ids: Ids
    places: Ids

    @cached_property
    def front(self) -> list[int]:
        """The ids that are tried without a mask."""
        return [int(token) for token in self.ids[:_FRONT]]


class StringState(IntEnum):
    """Where in a JSON text the next character stands, with respect to strings."""

    OUTSIDE = 0
    INSIDE = 1
    ESCAPED = 2


class Vocabulary:
    """One tokenizer's tokens in three orders of preference.

    The text of each id: `token_bytes` as bytes, `latin1` with one character a byte, `texts` decoded as UTF-8, invalid
    bytes replaced. `outside`, `short`, `long`: the order outside strings, and the two inside strings that prefer single
    characters and long tokens. `closers`: the ids that only close something, inside strings (True) and outside.
    `key_tokens`: the tokens that may end an object's key. `characters`: the id of each single character.
    `weights`: how much of REPEATS one use of an id takes up. `filler`: the longest token of lower-case letters.
    `only_end`, `all_but_ends`, `all`: masks of `mask_words` int32 words.
    """

    ends: list[int]
    all_ends: list[int]
    outside: Order
    short: Order
    long: Order
    closers: dict[bool, list[int]]

    def __init__(self, tokenizer: LLTokenizer, size: int, ends: Sequence[int]) -> None:
        self._tokenizer, self.ends, self.all_ends = tokenizer, list(ends[:1]), list(ends)
        self.token_bytes: list[bytes] = [tokenizer.decode_bytes([token]) for token in range(size)]
        self.latin1: list[str] = [written.decode("latin-1") for written in self.token_bytes]
        self.key_tokens: KeyTokens = KeyTokens(self.latin1)
        texts = [written.decode("utf-8", "replace") for written in self.token_bytes]
        self.texts: list[str] = texts
        self.characters: dict[str, int] = {text: token for token, text in enumerate(texts) if len(text) == 1}
        outside, short, long = ([rank(text) for text in texts] for rank in (_outside_rank, _short_rank, _long_rank))
        self.outside, self.short, self.long = map(_ordered, (outside, short, long))
        self.closers = {False: _closers(texts, outside), True: _closers(texts, short)}
        plain = (text for text in (texts[token] for token in self.long.ids) if text.isascii() and text.isalpha())
        self.filler: str = next((text for text in plain if text.islower()), "a")
        self.weights: list[int] = [1 if set(text) <= set('{}[]":,') else REPEATS for text in texts]
        self.state_after: Callable[[StringState, int], StringState] = lru_cache(maxsize=None)(self._state_after)
        self.stable_prefix: Callable[[Run], Run] = lru_cache(maxsize=4096)(self._stable_prefix)
        self.tokens_of: Callable[[bytes], Run] = lru_cache(maxsize=4096)(self._tokens_of)
        self.mask_words: int = -(-size // 32)
        self.only_end: Mask = lone(self.ends[0], self.mask_words)
        self.all_but_ends: Mask = all_but(self.all_ends, self.mask_words)
        self.all: Mask = all_but((), self.mask_words)

    def text_of(self, tokens: Iterable[int]) -> bytes:
        """The bytes that `tokens` write."""
        return b"".join([self.token_bytes[token] for token in tokens])

    def _tokens_of(self, text: bytes) -> Run:
        """The canonical tokenization of `text`."""
        return tuple(self._tokenizer.tokenize_bytes(text))

    def _stable_prefix(self, run: Run) -> Run:
        """The prefix of `run` whose every suffix is tokenized canonically as it stands in `run`."""
        texts = (self.text_of(run[at:]) for at in range(1, len(run)))
        odd = (at for at, text in enumerate(texts, start=1) if self._tokens_of(text) != run[at:])
        return run[: next(odd, len(run))]

    def _state_after(self, state: StringState, token: int) -> StringState:
        """The string state after `token`."""
        for character in self.texts[token]:
            if state is StringState.ESCAPED:
                state = StringState.INSIDE
            elif character == '"':
                state = StringState.INSIDE if state is StringState.OUTSIDE else StringState.OUTSIDE
            elif character == "\\" and state is StringState.INSIDE:
                state = StringState.ESCAPED
        return state


def _ordered(ranks: Sequence[int]) -> Order:
    """The order of ids by rank, the lowest first."""
    ids = np.argsort(np.array(ranks), kind="stable")
    return Order(ids, np.argsort(ids))


def _closers(texts: Sequence[str], ranks: Sequence[int]) -> list[int]:
    """The ids of rank below 0, the shortest text first, because a refused text rules out those that begin with it."""
    ids = (token for token, rank in enumerate(ranks) if rank < 0)
    return sorted(ids, key=lambda token: len(texts[token]))


def _closes(text: str) -> bool:
    return all(character in "}]" for character in text)


def _outside_rank(text: str) -> int:
    """Rank outside strings: below 0 for closing text, the more it closes the lower; then short values, the rest."""
    if text and _closes(text):
        return -len(text)
    if text in ("{}", "[]", '""'):
        return 1
    if text in (",", ',"'):  # after a number, which could go on for ever
        return 1 + len(text)
    if text == '"':
        return 12
    if text.isascii() and text.isdigit():
        return 10 + len(text) ** 2
    return 100 * (1 + sum(map(text.count, ',:[{-"'))) + 50 - min(len(text), 50)


def _short_rank(text: str) -> int:
    """Rank inside a string: below 0 for its end and closing text; then punctuation, digits, letters, the rest."""
    if text.startswith('"'):
        return -len(text) if _closes(text[1:]) else 0
    if len(text) != 1 or not text.isascii() or text == "\\":
        return 1000 + (0 if text.isascii() else 1000)
    return 300 if text.isspace() else 200 if text.isalpha() else 100 if text.isdigit() else 50


def _long_rank(text: str) -> int:
    """Rank inside a string: below 0 for its end and closing text; then plain ASCII text, the longest first."""
    if text.startswith('"'):
        return -len(text) if _closes(text[1:]) else 0
    plain = text.isascii() and "\\" not in text
    return (100 if plain else 1000) + 50 - min(len(text), 50)
