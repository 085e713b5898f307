"""What llguidance says at one point of a text, save tokens for what it does not remember (`keys`): bare answers.

Knows llguidance's matchers and bit masks, and open objects' keys. Does not know whether its grammar is used up: whoever
asks tests that (`matcher`), once for each question or once for a search of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from trimode.engine.token_mask import allows

from ..errors import GrammarRuntimeError
from ..watchdog import check
from .object_keys import ObjectKeys
from .vocabulary import Run, Vocabulary

_WINDOW: Final = 256
"""Bytes of a text that are spelled at a time."""
_RUN: Final = 64
"""Forced tokens that are looked at together; there may be more behind them."""


class RawMatcher:
    """`engine`: llguidance's matcher; end tokens are never fed to it, since it miscounts them.

    `keys`: those that open objects have, None where the grammar sees to it that they differ. `row`: the mask,
    once it was asked.
    """

    engine: LLMatcher
    vocabulary: Vocabulary

    __slots__ = ("_forced", "engine", "keys", "row", "vocabulary")

    def __init__(self, engine: LLMatcher, vocabulary: Vocabulary, keys: ObjectKeys | None) -> None:
        self.engine, self.vocabulary, self.keys = engine, vocabulary, keys
        self.row: Tensor | None = None
        self._forced: Run | None = None

    def fork(self) -> RawMatcher:
        twin = RawMatcher(self.engine.deep_copy(), self.vocabulary, self.keys)
        twin.row, twin._forced = self.row, self._forced
        return twin

    def mask(self) -> Tensor:
        if self.row is None:
            self.row = self._written()
        return self.row

    @property
    def queue(self) -> Run:
        """Forced tokens that an earlier answer has named already."""
        return self._forced or ()

    def forced(self) -> Run:
        """Text that the grammar forces, in the tokenizer's own spelling: the same from whichever of its tokens on."""
        if self._forced is None:
            ended = self.engine.is_stopped() and self.engine.is_accepting()
            run = self.engine.compute_ff_tokens()[:_RUN]
            self._forced = tuple(self.vocabulary.ends) if ended else self.vocabulary.steady(tuple(run))
        return self._forced

    def only(self) -> int | None:
        """The first of the forced tokens."""
        run = self.forced()
        return run[0] if run else None

    def allows(self, token: int) -> bool:
        """Where text is forced, its first token alone; end tokens where the text may end."""
        if self.row is not None:
            return allows(self.row, token)
        forced = self.only()
        fits = token == forced if forced is not None else self.engine.validate_tokens([token]) == 1
        return fits and (self.keys is None or self.keys.behind(self.vocabulary.latin[token]) is not None)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Whether these, in any spelling, complete the text."""
        whole = [*tokens, *self.vocabulary.ends]
        if self.engine.validate_tokens(whole) < len(whole):
            return False
        text = "".join([self.vocabulary.latin[token] for token in tokens])
        return self.keys is None or not self.keys.refuses(text)

    def advance(self, tokens: Sequence[int]) -> int:
        """How many of the tokens are taken; the rest was refused."""
        count, queue = len(tokens), self.queue
        self.row, self._forced = None, (queue[count:] or None) if queue[:count] == tuple(tokens) else None
        taken = self.engine.try_consume_tokens(list(tokens))
        if self.keys is not None and taken == count:
            for token in tokens:
                self.keys = self._named(self.keys, token)
        return taken

    def spelled(self, text: bytes, until: float = inf) -> list[int] | None:
        """Tokens of a text that completes this one, each allowed by the mask before it, and an end.

        Raises OutOfTime where this thread's CPU clock comes to `until`.
        """
        at, found, spelt = self.engine.deep_copy(), list[int](), self.vocabulary.spelt
        own = list[int]()  # of what comes next, the last first, as long as forced tokens agree
        while text:
            check(until)
            forced = at.compute_ff_tokens()
            own = own if own or forced else list(self.vocabulary.tokens_of(text[:_WINDOW]))[::-1]
            token = forced[0] if forced else own[-1]
            if own and own.pop() != token:
                own = []
            if not text.startswith(spelt[token]) or not at.consume_token(token):
                return None
            found.append(token)
            text = text[len(spelt[token]) :]
        return [*found, *self.vocabulary.ends]

    def _written(self) -> Tensor:
        if self.engine.is_stopped() and self.engine.is_accepting():
            return self.vocabulary.end
        row = torch.empty(self.vocabulary.words_of_mask, dtype=torch.int32)
        self.engine.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)
        if self.keys is not None:
            self._without(row, self.keys)
        return row

    def _named(self, keys: ObjectKeys, token: int) -> ObjectKeys:
        """`keys` behind an allowed token."""
        behind = keys.behind(self.vocabulary.latin[token])
        if behind is None:
            raise GrammarRuntimeError(
                f"token {token} gives an object a key that it has, or makes a number infinite; the mask had refused it"
            )
        return behind

    def _without(self, row: Tensor, keys: ObjectKeys) -> None:
        """Clears the bits of tokens that would give an object a key that it has, or make a number infinite."""
        bits, quoted = row.numpy().view(np.uint32), self.vocabulary.quoted
        known = replace(keys, number="") if keys.number else keys
        for token in (*quoted.doubling(known), *quoted.infinite(keys)):
            bits[token // 32] &= ~np.uint32(1 << token % 32)
