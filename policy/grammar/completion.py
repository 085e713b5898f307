"""Search for a short completion of an unfinished text, along a grammar's masks.

Knows token texts, where JSON strings begin and end, and the mask protocol. Does not know schemas. The search is greedy:
it takes the allowed token that closes most, else the one taken least so far, because a loop in a pattern would never
end otherwise. Inside strings it tries single characters, which patterns ask for, samples of the patterns' texts, and
long tokens, which minimum lengths ask for. The completion is short but not always the shortest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

import numpy as np

from ..watchdog import check
from .raw_matcher import RawMatcher
from .vocabulary import REPEATS, Ids, Order, StringState, Vocabulary

_NEAR: Final = 512
"""Number of preferred tokens that are looked up in a mask before all of them are."""
_SHORT: Final = 40
"""Length in tokens of a completion below which no shorter one is searched."""
_DIGITS: Final = 4
"""Digits that a search adds to a number at most so that a divisor divides it."""
_LONG: Final = 400
"""Length in tokens at which the first attempt is given up for another preference."""


@dataclass(frozen=True)
class Hints:
    """`ends`: texts that some strings of a grammar may end with; `names`: keys that some objects must have.

    `step`: what divides all numbers with a divisor (`multipleOf`), in units of their last digit; 0 for none.
    """

    ends: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    step: int = 0


@dataclass(frozen=True)
class CompletionSearch:
    """Completes the texts of one grammar.

    `hints`: called when a search first needs them. `complete_texts`: texts tried first for targets that are not JSON,
    the shortest first.
    """

    vocabulary: Vocabulary
    hints: Callable[[], Hints] = Hints
    complete_texts: tuple[str, ...] = ()

    def find(self, start: RawMatcher, state: StringState, limit: int, until: float = inf) -> list[int] | None:
        """Tokens that complete the text from `start`, an end token last; None where more than `limit` would be needed.

        Raises OutOfTime where this thread's CPU clock comes to `until`.
        """
        for text in self.complete_texts:
            whole = self._whole(start, text)
            if whole is not None and len(whole) <= limit:
                return whole
        for bound in (min(limit, _LONG), limit):
            best: list[int] | None = None
            for choose in (self._by_hint, self._by_long_tokens):
                best = self._walk(start.fork(), state, len(best) - 1 if best else bound, choose, until) or best
                if best and len(best) <= _SHORT:
                    break
            if best or bound == limit:
                return best
        return None

    def _whole(self, start: RawMatcher, text: str) -> list[int] | None:
        """The tokens of `text` and the end after it; None where that does not complete the text."""
        at, path = self._follow(start, text)
        end = None if at is None else self._end(at, at.forced_token())
        return None if end is None else [*path, end]

    def _walk(self, at: RawMatcher, state: StringState, limit: int, choose: Choose, until: float) -> list[int] | None:
        found, taken = list[int](), np.zeros(len(self.vocabulary.texts), dtype=np.intp)
        while len(found) < limit:
            check(until)
            forced = at.forced_token()
            end = self._end(at, forced)
            if end is not None:
                return [*found, end]
            step = [forced] if forced is not None else self._next(at, state, taken, choose, until)
            if not step or (forced is not None and not at.allows(forced)):  # it would repeat a key
                return None
            for token in step:
                taken[token] += self.vocabulary.weights[token]
                found.append(token)
                state = self.vocabulary.state_after(state, token)
                if not at.advance([token]):
                    return None
        return None

    def _end(self, at: RawMatcher, forced: int | None) -> int | None:
        if forced is not None:
            return forced if forced in self.vocabulary.ends else None
        return next((token for token in self.vocabulary.ends if at.allows(token)), None)

    def _next(self, at: RawMatcher, state: StringState, taken: Ids, choose: Choose, until: float) -> list[int]:
        closer = self._closer(at, state)
        if closer is not None:
            return [closer]
        if state is StringState.OUTSIDE:
            return self._number_end(at, until) or self._preferred(at, self.vocabulary.outside, taken)
        return choose(at, taken, until)

    def _number_end(self, at: RawMatcher, until: float) -> list[int]:
        """The fewest digits after which a number may end, where its schema has a divisor; empty where none are found.

        Taking digits in turn does not find them: 1 followed by 0, 1, 2, ... is never divisible by 3.
        """
        if not self._hints.step or not any(map(at.allows, self._digits)):
            return []
        for count in range(1, min(len(str(self._hints.step)), _DIGITS) + 1):
            for number in range(min(10**count, max(self._hints.step, 10))):
                check(until)
                digits = [self._digits[int(digit)] for digit in f"{number:0{count}d}"]
                if any(at.engine.validate_tokens([*digits, after]) > count for after in self._after_numbers):
                    return digits
        return []

    @cached_property
    def _hints(self) -> Hints:
        return self.hints()

    @cached_property
    def _digits(self) -> list[int]:
        """The tokens of single digits; empty where the vocabulary lacks one, which then no search tries."""
        found = [self.vocabulary.characters.get(digit) for digit in "0123456789"]
        return [token for token in found if token is not None] if None not in found else []

    @cached_property
    def _after_numbers(self) -> list[int]:
        found = [self.vocabulary.characters.get(character) for character in ",}]"]
        return [*(token for token in found if token is not None), *self.vocabulary.ends]

    def _by_long_tokens(self, at: RawMatcher, taken: Ids, _: float) -> list[int]:
        return self._preferred(at, self.vocabulary.long, taken)

    def _by_hint(self, at: RawMatcher, taken: Ids, until: float) -> list[int]:
        for text in () if self._may_close(at) else self._hint_texts:
            check(until)
            if path := self._string_end(at, text):
                return path
        return self._preferred(at, self.vocabulary.short, taken)

    @cached_property
    def _hint_texts(self) -> list[str]:
        hints = self._hints
        ends = {hint[at:] for hint in hints.ends for at in range(len(hint))}
        return [*hints.names, *sorted(ends, key=lambda end: (len(end), end))]

    def _string_end(self, start: RawMatcher, text: str) -> list[int]:
        """The tokens of `text`; empty where it is refused or the string may not end after it."""
        at, path = self._follow(start, text)
        return path if at is not None and path and self._string_ended(at, path[-1]) else []

    def _follow(self, start: RawMatcher, text: str) -> tuple[RawMatcher | None, list[int]]:
        """The matcher after `text` (None where it is refused) and the tokens, forced ones or single characters."""
        path, at = list[int](), start
        while text and (token := self._first_token(at, text)) is not None:
            at = at.fork() if at is start else at
            at.advance([token])
            path.append(token)
            text = text[len(self.vocabulary.texts[token]) :]
        return None if text else at, path

    def _first_token(self, at: RawMatcher, text: str) -> int | None:
        """The first token of `text`; a forced token may go on after it."""
        forced = at.forced_token()
        if forced is not None:
            piece = self.vocabulary.texts[forced]
            return forced if text.startswith(piece) or piece.startswith(text + '"') else None
        character = self.vocabulary.characters.get(text[0])
        return character if character is not None and at.allows(character) else None

    def _string_ended(self, at: RawMatcher, last: int) -> bool:
        """Whether the token `last` has ended the string, or a quote may follow."""
        return '"' in self.vocabulary.texts[last] or self._may_close(at)

    def _closer(self, at: RawMatcher, state: StringState) -> int | None:
        """The allowed token that closes most, of those that only close."""
        best, refused = None, list[str]()
        for token in self.vocabulary.closers[state is not StringState.OUTSIDE]:
            text = self.vocabulary.texts[token]
            if text.startswith(tuple(refused)) or (best is not None and len(text) == len(self.vocabulary.texts[best])):
                continue
            if at.allows(token):
                best = token
            else:
                refused.append(text)
        return best

    def _may_close(self, at: RawMatcher) -> bool:
        """Whether the string may end here."""
        forced = at.forced_token()
        return (
            self.vocabulary.texts[forced].startswith('"')
            if forced is not None
            else at.allows(self.vocabulary.characters['"'])
        )

    def _preferred(self, at: RawMatcher, order: Order, taken: Ids) -> list[int]:
        """The allowed token taken least, the first of those in `order`, as a list; empty where none is allowed."""
        front = next((token for token in order.front if taken[token] < REPEATS and at.allows(token)), None)
        if front is not None:
            return [front]
        near = _among(at, order.ids[:_NEAR])
        fresh = near[taken[near] < REPEATS]
        if fresh.size:
            return [int(fresh[0])]
        ids = _all_of(at)
        return [int(ids[(order.places[ids] + taken[ids] // REPEATS * len(taken)).argmin()])] if ids.size else []


Choose = Callable[[RawMatcher, Ids, float], list[int]]
"""Chooses the next tokens inside a string that may not end yet, given how often each was taken and the deadline."""


def _among(at: RawMatcher, ids: Ids) -> Ids:
    """The `ids` that the mask allows."""
    mask = at.mask()
    found: Ids = ids[(mask[ids // 32] >> ids % 32 & 1).astype(bool)]
    return found


def _all_of(at: RawMatcher) -> Ids:
    """All ids that the mask allows."""
    mask = at.mask()
    words = np.flatnonzero(mask)
    word, bit = np.nonzero(np.unpackbits(mask[words].view(np.uint8), bitorder="little").reshape(-1, 32))
    ids: Ids = words[word] * 32 + bit
    return ids
