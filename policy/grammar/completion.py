"""How an unfinished text can be ended: short completions, found by walking a grammar's masks.

Knows token texts, where JSON strings begin and end, and the mask protocol. Does not know schemas. A completion is found
by always taking, of the allowed tokens, the one that closes most; of those that close nothing, the one taken least so
far, so that no loop of a pattern is walked for ever. Inside strings a pattern wants many different characters and a
least length wants long tokens, so both are tried, and where neither comes to an end, texts that patterns are known to
match. What is found is short but not always the shortest.
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
from .vocabulary import WORN, Ids, Order, StringState, Vocabulary

_NEAR: Final = 512
"""How many tokens of an order are looked at in a mask before all are."""
_SHORT: Final = 40
"""Completions up to this many tokens are good enough not to look for a shorter one."""
_LONG: Final = 400
"""Tokens of a completion before another way is tried."""


@dataclass(frozen=True)
class Hints:
    """`ends`: texts that some strings of a grammar may end with; `names`: of objects, those that some must have."""

    ends: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompletionSearch:
    """Completes the texts of one grammar.

    `hints`: asked for when a search first needs them; `wholes`: what may be all that is left of a text that is not
    JSON, the shortest first.
    """

    vocabulary: Vocabulary
    hints: Callable[[], Hints] = Hints
    wholes: tuple[str, ...] = ()

    def ending(self, start: RawMatcher, place: StringState, limit: int, until: float = inf) -> list[int] | None:
        """Tokens that complete the text from `start`, an end token last; None where more than `limit` were needed.

        Raises OutOfTime where this thread's CPU clock comes to `until`.
        """
        for text in self.wholes:
            whole = self._whole(start, text)
            if whole is not None and len(whole) <= limit:
                return whole
        for most in (min(limit, _LONG), limit):
            best: list[int] | None = None
            for choose in (self._by_hint, self._by_words):
                best = self._walk(start.fork(), place, len(best) - 1 if best else most, choose, until) or best
                if best and len(best) <= _SHORT:
                    break
            if best or most == limit:
                return best
        return None

    def _whole(self, start: RawMatcher, text: str) -> list[int] | None:
        """`text` and the end behind it."""
        at, path = self._along(start, text)
        end = None if at is None else self._end(at, at.only())
        return None if end is None else [*path, end]

    def _walk(self, at: RawMatcher, place: StringState, limit: int, choose: Choose, until: float) -> list[int] | None:
        found, taken = list[int](), np.zeros(len(self.vocabulary.texts), dtype=np.intp)
        while len(found) < limit:
            check(until)
            forced = at.only()
            end = self._end(at, forced)
            if end is not None:
                return [*found, end]
            step = [forced] if forced is not None else self._next(at, place, taken, choose, until)
            if not step or (forced is not None and not at.allows(forced)):  # it would give an object a key again
                return None
            for token in step:
                taken[token] += self.vocabulary.weights[token]
                found.append(token)
                place = self.vocabulary.behind(place, token)
                if not at.advance([token]):
                    return None
        return None

    def _end(self, at: RawMatcher, forced: int | None) -> int | None:
        if forced is not None:
            return forced if forced in self.vocabulary.ends else None
        return next((token for token in self.vocabulary.ends if at.allows(token)), None)

    def _next(self, at: RawMatcher, place: StringState, taken: Ids, choose: Choose, until: float) -> list[int]:
        closing = self._closing(at, place)
        if closing is not None:
            return [closing]
        if place is StringState.OUTSIDE:
            return self._preferred(at, self.vocabulary.outside, taken)
        return choose(at, taken, until)

    def _by_words(self, at: RawMatcher, taken: Ids, _: float) -> list[int]:
        return self._preferred(at, self.vocabulary.words, taken)

    def _by_hint(self, at: RawMatcher, taken: Ids, until: float) -> list[int]:
        for text in () if self._may_close(at) else self._tries:
            check(until)
            if path := self._path(at, text):
                return path
        return self._preferred(at, self.vocabulary.signs, taken)

    @cached_property
    def _tries(self) -> list[str]:
        hints = self.hints()
        ends = {hint[at:] for hint in hints.ends for at in range(len(hint))}
        return [*hints.names, *sorted(ends, key=lambda end: (len(end), end))]

    def _path(self, start: RawMatcher, text: str) -> list[int]:
        """The tokens of `text`; empty where it is refused or the string may not end then."""
        at, path = self._along(start, text)
        return path if at is not None and path and self._ended(at, path[-1]) else []

    def _along(self, start: RawMatcher, text: str) -> tuple[RawMatcher | None, list[int]]:
        """Where `text` leads, by characters or as it is forced, and its tokens; None where it is refused."""
        path, at = list[int](), start
        while text and (token := self._letter(at, text)) is not None:
            at = at.fork() if at is start else at
            at.advance([token])
            path.append(token)
            text = text[len(self.vocabulary.texts[token]) :]
        return None if text else at, path

    def _letter(self, at: RawMatcher, text: str) -> int | None:
        """The first token of `text`; a forced one may go on behind it."""
        forced = at.only()
        if forced is not None:
            piece = self.vocabulary.texts[forced]
            return forced if text.startswith(piece) or piece.startswith(text + '"') else None
        letter = self.vocabulary.letters.get(text[0])
        return letter if letter is not None and at.allows(letter) else None

    def _ended(self, at: RawMatcher, last: int) -> bool:
        return '"' in self.vocabulary.texts[last] or self._may_close(at)

    def _closing(self, at: RawMatcher, place: StringState) -> int | None:
        """The allowed token that closes most and does nothing else."""
        best, refused = None, list[str]()
        for token in self.vocabulary.closers[place is not StringState.OUTSIDE]:
            text = self.vocabulary.texts[token]
            if text.startswith(tuple(refused)) or (best is not None and len(text) == len(self.vocabulary.texts[best])):
                continue
            if at.allows(token):
                best = token
            else:
                refused.append(text)
        return best

    def _may_close(self, at: RawMatcher) -> bool:
        """Whether a string may end here."""
        forced = at.only()
        return (
            self.vocabulary.texts[forced].startswith('"')
            if forced is not None
            else at.allows(self.vocabulary.letters['"'])
        )

    def _preferred(self, at: RawMatcher, order: Order, taken: Ids) -> list[int]:
        """Of the allowed tokens, those taken least, the first in `order`, most often at the front; empty: none is."""
        front = next((token for token in order.front if taken[token] < WORN and at.allows(token)), None)
        if front is not None:
            return [front]
        near = _among(at, order.ids[:_NEAR])
        fresh = near[taken[near] < WORN]
        if fresh.size:
            return [int(fresh[0])]
        ids = _all_of(at)
        return [int(ids[(order.places[ids] + taken[ids] // WORN * len(taken)).argmin()])] if ids.size else []


Choose = Callable[[RawMatcher, Ids, float], list[int]]
"""Tokens to take next inside a string that may not end yet, given how often each was taken, and until when."""


def _among(at: RawMatcher, ids: Ids) -> Ids:
    """Those of `ids` that may come next."""
    mask = at.mask().numpy()
    found: Ids = ids[(mask[ids // 32] >> ids % 32 & 1).astype(bool)]
    return found


def _all_of(at: RawMatcher) -> Ids:
    """The ids that may come next."""
    mask = at.mask().numpy()
    words = np.flatnonzero(mask)
    word, bit = np.nonzero(np.unpackbits(mask[words].view(np.uint8), bitorder="little").reshape(-1, 32))
    ids: Ids = words[word] * 32 + bit
    return ids
