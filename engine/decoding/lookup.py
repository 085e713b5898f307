"""Drafts without a drafter: the continuation of the longest suffix of a text that is found earlier in known text.

Knows token ids and the gate. Does not know the model or modes. Known text is a list of runs, each followed by a border
that no draft crosses; the last run is the one that grows. `TextIndex` finds suffixes as LZ77 compressors do: a table
leads from each n-gram to its latest place, and each place to the one before it with the same n-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from ..result import Rejected
from .gate import Gate
from .speculation import Draft

CAPACITY: Final = 1 << 15
"""Tokens of known text that are indexed at the start; older ones are left out. A token takes about 200 bytes."""
CANDIDATES: Final = 32
"""Places that one search compares, the latest first, so that text full of one n-gram does not make it slow."""
LONGEST: Final = 32
"""Length from which on a match is long enough; the search then takes the latest such place."""
_NOWHERE: Final = 0
"""Place that no n-gram has, because one of at least one token comes before it."""


class TextIndex:
    """Runs of token ids as one text, and where the n-grams in it were seen.

    `text`: the tokens and, as negative numbers of which each occurs once, the borders of runs; tokens may be appended
    to it directly for a while, by `copy_draft`, without being indexed. `size`: length of n-grams, the shortest match.
    """

    text: list[int]
    size: int

    def __init__(self, runs: Sequence[Sequence[int]], size: int) -> None:
        self.size, self.text = size, []
        self._latest: dict[tuple[int, ...], int] = {}
        self._earlier: list[int] = []
        bordered = [token for number, run in enumerate(runs) for token in chain((-1 - number,), run)]
        self.extend(bordered[-CAPACITY:])

    def extend(self, tokens: Iterable[int]) -> None:
        """Appends tokens to the last run; the n-gram before each is indexed now that it has a continuation."""
        text, earlier, latest, size = self.text, self._earlier, self._latest, self.size
        for token in tokens:
            place, before = len(text), _NOWHERE
            if token >= 0 and place >= size:
                gram = tuple(text[place - size :])
                before, latest[gram] = latest.get(gram, _NOWHERE), place
            earlier.append(before)
            text.append(token)

    def continuation(self) -> int | None:
        """Returns the place after the longest suffix of the text that occurs earlier, the latest such place; None if no
        suffix of `size` tokens does.

        It is exact if the last `size` tokens occurred at most CANDIDATES times and no match exceeds LONGEST tokens.
        """
        best, longest = _NOWHERE, 0
        place = self._latest.get(tuple(self.text[-self.size :]), _NOWHERE)
        for _ in range(CANDIDATES):
            if place == _NOWHERE or longest >= LONGEST:
                break
            length = self._matched(place)
            if length > longest:
                best, longest = place, length
            place = self._earlier[place]
        return None if best == _NOWHERE else best

    def _matched(self, place: int) -> int:
        """Returns how many tokens before `place` equal the last ones of the text, at most LONGEST."""
        text, end, length = self.text, len(self.text), self.size
        limit = min(place, LONGEST)
        while length < limit and text[place - 1 - length] == text[end - 1 - length]:
            length += 1
        return length


def copy_draft(index: TextIndex, gate: Gate, limit: int) -> Draft:
    """Returns at most `limit` tokens that continue the text of `index` as an earlier part of it goes on.

    Tokens that the gate forces are placed among the copied ones. Where one differs from the copied text, or a run ends,
    the suffix that includes the draft is looked for again. The draft ends where nothing is found, at the first copied
    token that the gate refuses, and with an end token. Neither `gate` nor `index` moves.
    """
    draft, written = Draft([gate]), len(index.text)
    place = index.continuation() if limit > 0 else None
    while place is not None and len(draft.tokens) < limit and not draft.ended:
        place = _copy(index, draft, place)
    del index.text[written:]
    return draft


def _copy(index: TextIndex, draft: Draft, place: int) -> int | None:
    """Adds one token to the draft, copied from `place` or forced; returns the next place; None if the draft ends."""
    gate, copied = draft.gates[-1].fork(), index.text[place]
    token = gate.forced()
    origin = "a" if token is None else "f"
    if token is None:
        if not gate.allows(copied):
            draft.refused.append(Rejected(token=copied, reason="schema"))
            return None
        token = gate.resolve(copied)
    draft.add(token, origin, 1.0)
    if token in gate.ends:
        draft.ended = True
        return None
    gate.advance([token])
    draft.gates.append(gate)
    index.text.append(token)
    return place + 1 if token == copied and index.text[place + 1] >= 0 else index.continuation()
