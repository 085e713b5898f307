"""One grammar at one point of a text: llguidance behind the engine's `Constraint` protocol.

Knows llguidance's matchers and bit masks, and one text that completes what is there. Does not know schemas or how a
completion is searched. What masks allow is narrower than the grammar: text that it forces comes in the tokenizer's own
spelling alone, and no object gets a key twice. So a completion is kept as a text, which takes at most a token for each
byte, and spelled when needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from torch import Tensor

from trimode.engine.constraint import allows, lone

from .closer import Closer, Place
from .errors import GrammarRuntimeError
from .keys import Keys

_EXECUTOR: Final = LLExecutor(1)
_SKIPPED: Final = 64
"""How many tokens of a known completion a choice may make needless before it is given up."""

Ending = list[int] | None
"""Tokens that complete a text, an end token last; None where none is known."""


class Matcher:
    """One grammar at one point of a text. End tokens are never fed to llguidance, which miscounts them.

    `keys`: those that open objects have, None where the grammar sees to it that they differ. `known`: tokens that
    complete the text, in any spelling; `sure`: False where text came that they may not fit behind.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        closer: Closer,
        keys: Keys | None = None,
        known: Ending = None,
        place: Place = Place.OUTSIDE,
        sure: bool = True,
    ) -> None:
        self._matcher, self._closer, self._keys, self._place = matcher, closer, keys, place
        self._known, self._sure = known, sure
        self._row: Tensor | None = None
        self._forced: list[int] | None = None
        self._words = -(-len(closer.vocabulary.texts) // 32)

    @property
    def engine(self) -> LLMatcher:
        """llguidance's matcher at this point, for measurements."""
        return self._matcher

    def mask(self) -> Tensor:
        if self._row is None:
            self._row = self._compute()
        return self._row

    def masks(self, tokens: Sequence[int]) -> Sequence[Tensor]:
        """All rows in one call of llguidance's, which writes none behind a text that nothing continues.

        The call goes to a copy: it takes its steps back, and masks of what has gone back can lack tokens afterwards.
        """
        if not tokens:
            return [self.mask()]
        rows = torch.zeros(len(tokens) + 1, self._words, dtype=torch.int32)
        copy = self._matcher.deep_copy()
        work = [(copy, 0, list(tokens))]
        _EXECUTOR.unsafe_compute_mask_ptr_with_draft_token(work, rows.data_ptr(), self._words * 4, len(rows))
        _check(copy)
        keys = self._keys
        for at, row in enumerate(rows):
            keys = self._named(keys, tokens[at - 1]) if at else keys
            self._without(row, keys)
        return rows.unbind() if rows[-1].any() else [*rows[:-1], lone(self._closer.vocabulary.ends[0], self._words)]

    def forced(self) -> int | None:
        """Text that the grammar forces, in the tokenizer's spelling; the end behind a text that nothing continues."""
        if self._forced is None:
            ended = self._matcher.is_stopped() and self._matcher.is_accepting()
            self._forced = self._closer.vocabulary.ends[:1] if ended else self._matcher.compute_ff_tokens()[:1]
        return self._forced[0] if self._forced else None

    def allows(self, token: int) -> bool:
        """Where text is forced, its first token alone; end tokens where the text may end."""
        if self._row is not None:
            return allows(self._row, token)
        if self._keys is not None and self._keys.behind(self._closer.vocabulary.latin[token]) is None:
            return False
        forced = self.forced()
        return token == forced if forced is not None else self._matcher.validate_tokens([token]) == 1

    def advance(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        self._row = self._forced = None
        taken = self._matcher.try_consume_tokens(list(tokens))
        if taken < len(tokens):
            _check(self._matcher)
            raise GrammarRuntimeError(f"the grammar refused token {tokens[taken]}, which its own mask had allowed")
        for token in tokens:
            self._place = self._closer.vocabulary.behind(self._place, token)
            self._keys = self._named(self._keys, token)
            self._follow(token)

    def fork(self) -> Matcher:
        twin = Matcher(self._matcher.deep_copy(), self._closer, self._keys, self._known, self._place, self._sure)
        twin._row, twin._forced = self._row, self._forced
        return twin

    def anew(self) -> Matcher:
        """A fork that has computed its mask itself. Raises GrammarRuntimeError where the grammar is used up."""
        twin = self.fork()
        twin._row = twin._forced = None
        twin.mask()
        return twin

    def ending(self, limit: int) -> Ending:
        """The known completion as masks want it spelled; where there is none or it is longer, what a search finds."""
        known = self._completion()
        spelled = None if known is None else self._spelled(known)
        if spelled is not None and len(spelled) <= limit:
            return spelled
        found = self._closer.ending(self, self._place, limit)
        if found is not None:
            self._known, self._sure = found, True
        return found

    def closes(self, limit: int) -> bool:
        """Whether a completion is known that fits even byte by byte."""
        known = self._completion()
        return known is not None and self._closer.vocabulary.bytes_of(known) < limit

    def _follow(self, token: int) -> None:
        """What is known, behind one more token."""
        if self._known is None:
            return
        rest = self._closer.vocabulary.rest(self._known, token) if self._sure else None
        self._known, self._sure = (self._known, False) if rest is None else (rest, True)

    def _completion(self) -> Ending:
        """What is known, or the first part of it that completes the text behind what came meanwhile."""
        if not self._sure and self._known is not None:
            parts = (self._known[at:] for at in range(min(len(self._known), _SKIPPED)))
            self._known = next((part for part in parts if self._completes(part)), None)
            self._sure = True
        return self._known

    def _completes(self, tokens: list[int]) -> bool:
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        text = "".join(self._closer.vocabulary.latin[token] for token in tokens[:-1])
        return self._keys is None or '":' not in text or self._keys.behind(text) is not None

    def _spelled(self, known: Sequence[int]) -> Ending:
        """Tokens of the same text, each allowed by the mask before it."""
        at, spelled, rest = self._matcher.deep_copy(), list[int](), known
        while len(rest) > 1:
            forced = at.compute_ff_tokens()
            spelled.append(forced[0] if forced else rest[0])
            left = self._closer.vocabulary.rest(rest, spelled[-1])
            if left is None or not at.consume_token(spelled[-1]):
                return None
            rest = left
        return [*spelled, rest[0]]

    def _compute(self) -> Tensor:
        if self._matcher.is_stopped() and self._matcher.is_accepting():
            return lone(self._closer.vocabulary.ends[0], self._words)
        row = torch.empty(self._words, dtype=torch.int32)
        self._matcher.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)
        _check(self._matcher)
        self._without(row, self._keys)
        return row

    def _named(self, keys: Keys | None, token: int) -> Keys | None:
        """`keys` behind an allowed token."""
        behind = None if keys is None else keys.behind(self._closer.vocabulary.latin[token])
        if keys is not None and behind is None:
            raise GrammarRuntimeError(f"token {token} gives an object a key that it has; the mask had refused it")
        return behind

    def _without(self, row: Tensor, keys: Keys | None) -> None:
        """Clears the bits of tokens that would give an object a key that it has."""
        if keys is None:
            return
        bits = row.numpy().view(np.uint32)
        for token in self._closer.vocabulary.quoted.doubling(keys):
            bits[token // 32] &= ~np.uint32(1 << token % 32)


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarRuntimeError(f"the grammar engine stopped: {matcher.get_error().splitlines()[0]}")
