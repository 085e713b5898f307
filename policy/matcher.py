"""One grammar at one point of a text: llguidance behind the engine's `Constraint` protocol.

Knows llguidance's matchers and bit masks, and one text that completes what is there. Does not know schemas or how a
completion is searched. What masks allow is narrower than the grammar: text that it forces comes in the tokenizer's own
spelling alone, and no object gets a key twice. So a completion is kept as a text, which takes at most a token for each
byte, and spelled when needed. A grammar that is used up is compiled anew (`renewal`) and reads the text again; where
even that fails, the completion is all that is left (`epilogue`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Final, TypeVar

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from torch import Tensor

from trimode.engine.constraint import allows, lone

from .closer import Closer, Place
from .epilogue import Epilogue
from .errors import GrammarRuntimeError
from .keys import Keys
from .renewal import Supply, stopped

T = TypeVar("T")
_EXECUTOR: Final = LLExecutor(1)
_SKIPPED: Final = 64
"""How many tokens of a known completion a choice may make needless before it is given up."""
_TRIES: Final = 3
"""The matcher as it is; one that another call may have compiled, and worn, meanwhile; one of this call's own."""

Ending = list[int] | None
"""Tokens that complete a text, an end token last; None where none is known."""
Past = tuple["Past", int] | None
"""A text's tokens, the last one outermost."""


class Matcher:
    """One grammar at one point of a text. End tokens are never fed to llguidance, which miscounts them.

    `keys`: those that open objects have, None where the grammar sees to it that they differ. `known`: tokens that
    complete the text, in any spelling.
    """

    def __init__(self, supply: Supply, closer: Closer, keys: Keys | None = None, known: Ending = None) -> None:
        self._supply, self._closer, self._keys, self._known = supply, closer, keys, known
        self._matcher, self._made = supply.first(), supply.made
        self._sure, self._place = True, Place.OUTSIDE
        self._past: Past = None
        self._row: Tensor | None = None
        self._forced: list[int] | None = None
        self._over: Epilogue | None = None
        self._doom: tuple[int, ...] | None = None
        self._trusting = False

    @property
    def engine(self) -> LLMatcher:
        """llguidance's matcher at this point, for measurements."""
        return self._matcher

    @property
    def supply(self) -> Supply:
        """What became of the grammar in this call."""
        return self._supply

    def mask(self) -> Tensor:
        if self._row is None:
            self._row = self._or_over(self._compute, Epilogue.mask)
        return self._row

    def masks(self, tokens: Sequence[int]) -> Sequence[Tensor]:
        """All rows in one call of llguidance's, which writes none behind a text that nothing continues."""
        if not tokens:
            return [self.mask()]
        rows = None if self._over is not None else self._at_once(tokens)
        return self._by_steps(tokens) if rows is None else rows

    def forced(self) -> int | None:
        """Text that the grammar forces, in the tokenizer's spelling; the end behind a text that nothing continues."""
        if self._forced is None:
            self._forced = self._or_over(lambda: self._asked(self._forces), lambda _: [])
        return self._forced[0] if self._forced else None

    def allows(self, token: int) -> bool:
        """Where text is forced, its first token alone; end tokens where the text may end."""
        if self._row is not None:
            return allows(self._row, token)
        if self._keys is not None and self._keys.behind(self._closer.vocabulary.latin[token]) is None:
            return False
        forced = self.forced()
        if forced is not None:
            return token == forced
        return self._or_over(lambda: self._fits([token]), lambda over: over.allows(token))

    def advance(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        self._row = self._forced = None
        taken = self._or_over(lambda: self._consume(tokens), lambda _: len(tokens))
        if taken < len(tokens):
            raise GrammarRuntimeError(f"the grammar refused token {tokens[taken]}, which its own mask had allowed")
        for token in tokens:
            self._past = (self._past, token)
            self._doom = self._doom[1:] if self._doom and self._doom[0] == token else None
            self._place = self._closer.vocabulary.behind(self._place, token)
            if self._over is None:
                self._keys = self._named(self._keys, token)
                self._follow(token)
            else:
                self._over = self._over.behind(token)

    def fork(self) -> Matcher:
        twin = copy(self)
        twin._matcher = self._matcher.deep_copy()
        return twin

    def anew(self) -> Matcher:
        """The same point for another call, which has computed its mask itself."""
        twin = self.fork()
        twin._supply = self._supply.again()
        twin._row = twin._forced = None
        twin.mask()
        return twin

    def ending(self, limit: int) -> Ending:
        """The known completion as masks want it spelled; where there is none or it is longer, what a search finds."""
        return self._or_over(lambda: self._ending(limit), lambda over: over.ending(limit))

    def closes(self, limit: int) -> bool:
        """Whether a completion is known that fits even byte by byte."""
        return self._or_over(lambda: self._closes(limit), lambda over: over.closes(limit))

    def _or_over(self, ask: Callable[[], T], instead: Callable[[Epilogue], T]) -> T:
        """What the grammar answers; from where it can say no more, what follows from the completion alone."""
        if self._over is None:
            try:
                return ask()
            except GrammarRuntimeError as error:
                self._over = Epilogue(self._closer.vocabulary, self._known if self._sure else None, str(error))
                self._row = self._forced = None
                self._supply.ended[tuple(self._tokens())] = str(error)
        return instead(self._over)

    def _asked(self, ask: Callable[[LLMatcher], T], sure: object = None) -> T:
        """What llguidance answers, of a grammar compiled anew if need be; an answer of `sure` is right in any case.

        Under `_trusting` nothing is tested, because the caller tests it all at the end.
        """
        if self._trusting:
            return ask(self._matcher)
        for _ in range(_TRIES):
            if self._made == self._supply.made:
                answer = ask(self._matcher)
                if answer == sure or not self._supply.trouble(self._matcher):
                    return answer
                self._supply.renew()
            self._matcher, self._made = self._supply.first(), self._supply.made
            self._matcher.try_consume_tokens(self._tokens())
        raise stopped(self._matcher)

    def _tokens(self) -> list[int]:
        found, past = list[int](), self._past
        while past is not None:
            past, token = past
            found.append(token)
        return found[::-1]

    def _forces(self, matcher: LLMatcher) -> list[int]:
        ended = matcher.is_stopped() and matcher.is_accepting()
        return self._closer.vocabulary.ends[:1] if ended else matcher.compute_ff_tokens()[:1]

    def _fits(self, tokens: list[int]) -> bool:
        return self._asked(lambda matcher: matcher.validate_tokens(tokens), sure=len(tokens)) == len(tokens)

    def _consume(self, tokens: Sequence[int]) -> int:
        if self._doom == ():
            raise stopped(self._matcher)
        return self._asked(lambda matcher: matcher.try_consume_tokens(list(tokens)), sure=len(tokens))

    def _compute(self) -> Tensor:
        if self._doom == ():
            raise stopped(self._matcher)
        row = self._asked(self._written)
        self._without(row, self._keys)
        return row

    def _written(self, matcher: LLMatcher) -> Tensor:
        if matcher.is_stopped() and matcher.is_accepting():
            return self._closer.vocabulary.end
        row = torch.empty(self._closer.vocabulary.words_of_mask, dtype=torch.int32)
        matcher.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)
        return row

    def _at_once(self, tokens: Sequence[int]) -> Sequence[Tensor] | None:
        """None where the grammar is used up on the way.

        The call goes to a copy: it takes its steps back, and masks of what has gone back can lack tokens afterwards.
        """
        words = self._closer.vocabulary.words_of_mask
        rows = torch.zeros(len(tokens) + 1, words, dtype=torch.int32)
        copied = self._matcher.deep_copy()
        work = [(copied, 0, list(tokens))]
        _EXECUTOR.unsafe_compute_mask_ptr_with_draft_token(work, rows.data_ptr(), words * 4, len(rows))
        if self._supply.trouble(copied):
            return None
        keys = self._keys
        for at, row in enumerate(rows):
            keys = self._named(keys, tokens[at - 1]) if at else keys
            self._without(row, keys)
        return rows.unbind() if rows[-1].any() else [*rows[:-1], self._closer.vocabulary.end]

    def _by_steps(self, tokens: Sequence[int]) -> Sequence[Tensor]:
        """One row after the other. Where one cannot be had, later calls at that point must find the same."""
        at, rows = self.fork(), [self.mask()]
        at._over = self._over
        for count, token in enumerate(tokens, start=1):
            at.advance([token])
            if at._over is None and (forced := at.forced()) is not None:
                rows.append(lone(forced, self._closer.vocabulary.words_of_mask))
            elif at._over is None:
                rows.append(at._or_over(at._compute, lambda over: over.vocabulary.going_on))
                self._doom = None if at._over is None else tuple(tokens[:count])
            else:
                rows.append(self._closer.vocabulary.going_on)
        return rows

    def _ending(self, limit: int) -> Ending:
        known = self._completion()
        found = None if known is None else self._asked(lambda matcher: self._spelled(matcher.deep_copy(), known))
        if found is None or len(found) > limit:
            found = self._asked(lambda matcher: self._searched(matcher.deep_copy(), limit))
        if found is not None:
            self._known, self._sure = found, True
        return found

    def _searched(self, at: LLMatcher, limit: int) -> Ending:
        """What a search finds from here, on a grammar that may be used up on the way."""
        start = copy(self)
        start._matcher, start._row, start._forced, start._trusting = at, None, None, True
        try:
            return self._closer.ending(start, self._place, limit)
        except GrammarRuntimeError:  # the caller sees whether it is used up
            return None

    def _closes(self, limit: int) -> bool:
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
        if not self._fits(tokens):
            return False
        text = "".join(self._closer.vocabulary.latin[token] for token in tokens[:-1])
        return self._keys is None or '":' not in text or self._keys.behind(text) is not None

    def _spelled(self, at: LLMatcher, known: Sequence[int]) -> Ending:
        """Tokens of the same text, each allowed by the mask before it."""
        spelled, rest = list[int](), known
        while len(rest) > 1:
            forced = at.compute_ff_tokens()
            spelled.append(forced[0] if forced else rest[0])
            left = self._closer.vocabulary.rest(rest, spelled[-1])
            if left is None or not at.consume_token(spelled[-1]):
                return None
            rest = left
        return [*spelled, rest[0]]

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
