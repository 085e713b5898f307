"""llguidance's answers at one point of a text, without tokens that would repeat a key or make a number infinite.

Knows llguidance's matchers and bit masks, and the keys of open objects. Does not know whether the grammar's lexer is
exhausted: `matcher.py` tests that, once for each question or once for a search of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final

import numpy as np
from llguidance import LLMatcher

from trimode.engine.token_mask import Mask, allows

from ..errors import GrammarRuntimeError
from ..watchdog import check
from .object_keys import ObjectKeys
from .vocabulary import Run, Vocabulary

_WINDOW: Final = 256
"""Bytes of a text that are tokenized at a time."""
_RUN: Final = 64
"""Largest number of forced tokens in one answer; more may follow them."""


class RawMatcher:
    """A grammar at one point of a text.

    `engine`: llguidance's matcher; end tokens are never fed to it, because it miscounts them. `keys`: the state of
    open objects, None where the grammar itself rules out equal keys. `row`: the mask, once it was computed.
    """

    engine: LLMatcher
    vocabulary: Vocabulary

    __slots__ = ("_forced", "engine", "keys", "row", "vocabulary")

    def __init__(self, engine: LLMatcher, vocabulary: Vocabulary, keys: ObjectKeys | None) -> None:
        self.engine, self.vocabulary, self.keys = engine, vocabulary, keys
        self.row: Mask | None = None
        self._forced: Run | None = None

    def fork(self) -> RawMatcher:
        twin = RawMatcher(self.engine.deep_copy(), self.vocabulary, self.keys)
        twin.row, twin._forced = self.row, self._forced
        return twin

    def mask(self) -> Mask:
        if self.row is None:
            self.row = self._computed_mask()
        return self.row

    @property
    def known_forced(self) -> Run:
        """Forced tokens that are known from an earlier answer."""
        return self._forced or ()

    def forced(self) -> Run:
        """Text that the grammar forces: the stable prefix of its canonical tokenization."""
        if self._forced is None:
            ended = self.engine.is_stopped() and self.engine.is_accepting()
            run = self.engine.compute_ff_tokens()[:_RUN]
            self._forced = tuple(self.vocabulary.ends) if ended else self.vocabulary.stable_prefix(tuple(run))
        return self._forced

    def forced_token(self) -> int | None:
        """The first of the forced tokens; None where nothing is forced."""
        run = self.forced()
        return run[0] if run else None

    def allows(self, token: int) -> bool:
        """Whether the mask allows `token`. Where text is forced, it allows the first forced token alone."""
        if self.row is not None:
            return allows(self.row, token)
        forced = self.forced_token()
        fits = token == forced if forced is not None else self.engine.validate_tokens([token]) == 1
        return fits and (self.keys is None or self.keys.after(self.vocabulary.latin1[token]) is not None)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens`, canonical or not, complete the text."""
        whole = [*tokens, *self.vocabulary.ends]
        if self.engine.validate_tokens(whole) < len(whole):
            return False
        text = "".join([self.vocabulary.latin1[token] for token in tokens])
        return self.keys is None or not self.keys.refuses(text)

    def advance(self, tokens: Sequence[int]) -> int:
        """Consumes `tokens` and returns how many were accepted; the rest was refused."""
        count, known_forced = len(tokens), self.known_forced
        self.row, self._forced = None, (known_forced[count:] or None) if known_forced[:count] == tuple(tokens) else None
        taken = self.engine.try_consume_tokens(list(tokens))
        if self.keys is not None and taken == count:
            for token in tokens:
                self.keys = self._keys_after(self.keys, token)
        return taken

    def tokenized(self, text: bytes, until: float = inf) -> list[int] | None:
        """The tokens of a `text` that completes this one, each allowed by the mask before it, and an end token.

        None where the grammar refuses `text`. Raises OutOfTime where this thread's CPU clock comes to `until`.
        """
        at, found, token_bytes = self.engine.deep_copy(), list[int](), self.vocabulary.token_bytes
        own = list[int]()  # canonical tokens of the next bytes, reversed; dropped where a forced token differs
        while text:
            check(until)
            forced = at.compute_ff_tokens()
            own = own if own or forced else list(self.vocabulary.tokens_of(text[:_WINDOW]))[::-1]
            token = forced[0] if forced else own[-1]
            if own and own.pop() != token:
                own = []
            if not text.startswith(token_bytes[token]) or not at.consume_token(token):
                return None
            found.append(token)
            text = text[len(token_bytes[token]) :]
        return [*found, *self.vocabulary.ends]

    def _computed_mask(self) -> Mask:
        if self.engine.is_stopped() and self.engine.is_accepting():
            return self.vocabulary.only_end
        row: Mask = np.empty(self.vocabulary.mask_words, dtype=np.int32)
        self.engine.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self.keys is not None:
            self._clear_refused(row, self.keys)
        return row

    def _keys_after(self, keys: ObjectKeys, token: int) -> ObjectKeys:
        """`keys` after an allowed token. Raises GrammarRuntimeError where the mask must have refused it."""
        after = keys.after(self.vocabulary.latin1[token])
        if after is None:
            raise GrammarRuntimeError(
                f"token {token} gives an object a key that it has, or makes a number infinite; the mask had refused it"
            )
        return after

    def _clear_refused(self, row: Mask, keys: ObjectKeys) -> None:
        """Clears the bits of tokens that would give an object a key that it has, or make a number infinite."""
        bits, key_tokens = row.view(np.uint32), self.vocabulary.key_tokens
        numberless = replace(keys, number="") if keys.number else keys
        for token in (*key_tokens.duplicating(numberless), *key_tokens.infinite(keys)):
            bits[token // 32] &= ~np.uint32(1 << token % 32)
