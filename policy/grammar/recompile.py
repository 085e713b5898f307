"""Where the matchers of a grammar come from: compiled once, copied for each call, compiled anew when it is used up.

Knows llguidance's matchers and limits. Does not know endings or schemas. All copies of a compiled grammar share
one lexer, which has a limit of states, and of work between two masks. Behind a limit it refuses what fits, and seldom
says why; so each call keeps a copy at the start of the text, which takes the same token again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from trimode.engine.locks import ForkSafeLock

from ..errors import GrammarRuntimeError
from ..watchdog import OutOfTime, in_time
from .vocabulary import Run, Vocabulary

Make = Callable[[LLParserLimits | None], LLMatcher]
"""Compiles a grammar under limits; None: llguidance's own, which are those of the first compilation."""
SECONDS: Final = 0.5
"""CPU time that compiling again may take; the first time took less than a fifth of it."""
_WIDE: Final = LLParserLimits(
    max_items_in_row=20_000, initial_lexer_fuel=10**15, step_lexer_fuel=10_000_000, step_max_items=2_500_000
)
"""Some 50 times llguidance's own, and whatever reading a text again takes. A mask of that much fuel takes 0.3 s."""

_ENDINGS: Final = 64
"""Searches of a grammar that are kept,"""
_EARLY: Final = 64
"""of texts of so many tokens at most: what agents repeat, such as a tool's name, comes early."""
_LETTERS: Final = '{["-0tfn'
"""With which most JSON texts begin."""


class CompiledGrammar:
    """A compiled grammar. Threads may share it.

    `made`: how often it was compiled anew; `opening`: a token with which texts begin, none where only the
    empty text fits; None where not even the first mask could be had.
    """

    made: int

    def __init__(self, first: LLMatcher, make: Make, vocabulary: Vocabulary) -> None:
        self._start, self._make, self.made = first, make, 0
        self._lock, self._endings = ForkSafeLock(), dict[tuple[Run, int], list[int] | None]()
        self._vocabulary, self.opening = vocabulary, _opening(first, vocabulary)

    def start(self) -> tuple[LLMatcher, int]:
        """A copy at the start of the text, and the `made` that it is of."""
        with self._lock:
            return self._start.deep_copy(), self.made

    def ending(self, asked: tuple[Run, int], search: Callable[[], list[int] | None]) -> list[int] | None:
        """How to end behind some tokens within a limit: what `search` found there, in this call or in another."""
        known = self._endings
        if asked in known:
            return known[asked]
        found = search()
        if len(asked[0]) > _EARLY:
            return found
        if len(self._endings) >= _ENDINGS:
            self._endings = {}
        self._endings[asked] = found
        return found

    def renew(self, used_up: int) -> None:
        """Compiles anew, unless another call has done so since `used_up`. Raises GrammarRuntimeError."""
        with self._lock:
            if self.made > used_up:
                return
            try:
                found = in_time(lambda: self._make(_WIDE), SECONDS, kind="renew")
            except OutOfTime as error:
                raise GrammarRuntimeError(f"the grammar engine stopped, and compiling anew failed: {error}") from None
            if found.is_error():
                raise stopped(found)
            self._start, self.made = found, self.made + 1
            self.opening = _opening(found, self._vocabulary) if self.opening is None else self.opening


class CallGrammar:
    """One call's way to a grammar. Every matcher of the call shares it; no two threads use it at a time.

    `made`: which compilation of the grammar the call uses; `renewed`: how often it took another one; `ended`: tokens
    behind which even that could say no more, and what it said.
    """

    made: int
    renewed: int
    ended: dict[tuple[int, ...], str]

    def __init__(self, source: CompiledGrammar) -> None:
        self.source = source
        self._canary, self.made = source.start()
        self.renewed = 0
        self.ended = dict[tuple[int, ...], str]()

    def again(self) -> CallGrammar:
        """The same grammar, for another call."""
        return CallGrammar(self.source)

    def first(self) -> LLMatcher:
        """A copy of the present compilation at the start of the text."""
        return self._canary.deep_copy()

    def trouble(self, matcher: LLMatcher) -> bool:
        """Whether what `matcher` has just said may be wrong."""
        opening, canary = self.source.opening, self._canary
        if opening is None or matcher.is_error() or canary.try_consume_tokens(opening) < len(opening):
            return True
        canary.rollback(len(opening))
        return canary.is_error()

    def renew(self) -> None:
        """Takes a compilation after the present one. Raises GrammarRuntimeError where there is none to be had."""
        self.source.renew(self.made)
        self._canary, self.made = self.source.start()
        self.renewed += 1

    def end(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """Of an output, how many tokens came before the grammar could say no more, and why; None where it always could.

        Drafts and looks ahead may have come upon others.
        """
        found = ((len(one), why) for one, why in self.ended.items() if tuple(tokens[: len(one)]) == one)
        return min(found, default=None)


def stopped(matcher: LLMatcher) -> GrammarRuntimeError:
    said = matcher.get_error().splitlines()
    return GrammarRuntimeError(f"the grammar engine stopped: {said[0] if said else 'its lexer is used up'}")


def _opening(start: LLMatcher, vocabulary: Vocabulary) -> list[int] | None:
    letters = (vocabulary.letters.get(letter) for letter in _LETTERS)
    guess = next((token for token in letters if token is not None and start.validate_tokens([token])), None)
    if guess is not None:
        return [guess]
    at = start.deep_copy()
    words = np.frombuffer(at.compute_bitmask(), dtype=np.uint32)
    if at.is_error():
        return None
    some = (int(word) * 32 + bit for word in np.flatnonzero(words) for bit in range(32) if words[word] >> bit & 1)
    return next(([token] for token in some if token not in vocabulary.all_ends), [])
