"""Drafts without a drafter: the continuation of the longest suffix of a text that occurs earlier in known text.

Knows token ids and the gate. Does not know the model or modes. Known text is a list of runs, each after a border that
no match and no draft crosses; the last run is the one that grows. Suffixes are found as in LZ77 compressors: a table
leads from each n-gram to its latest place, and each place to the one before it with the same n-gram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from ..result import Section
from .gate import Gate
from .speculation import Draft

CAPACITY: Final = 1 << 15
"""Tokens of known text that are indexed at the start; older ones are left out. A token takes 70 to 150 bytes."""
CANDIDATES: Final = 32
"""Places that one search compares, the latest first: on recorded steps 128 save no more passes, 8 save 1 % fewer."""
LONGEST: Final = 32
"""Length from which on a match is long enough; the search then takes the latest such place."""
TRUST: Final = 2
"""Tokens that are copied for each token of a match, because a longer match goes on alike for longer."""
_NOWHERE: Final = 0
"""Place that no n-gram has, because one of at least one token comes before it."""


class Match(NamedTuple):
    """A suffix that occurs earlier: the place after that occurrence, and the suffix's length in tokens."""

    place: int
    length: int


class TextIndex:
    """Runs of token ids as one text, and where the n-grams in it were seen.

    `text`: the tokens and, as negative numbers of which each occurs once, the borders before runs. Tokens that are
    appended to it directly are not indexed. `size`: length of the n-grams, which is that of the shortest match.
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
                gram = tuple(text[-size:])
                before, latest[gram] = latest.get(gram, _NOWHERE), place
            earlier.append(before)
            text.append(token)

    def longest(self, allows: Callable[[int], bool]) -> Match | None:
        """Returns the longest match that continues with a token that `allows` accepts, the latest of equal ones.

        Compared are the CANDIDATES latest places after the last `size` tokens, up to LONGEST tokens each. None: none of
        them fits.
        """
        best, refused = Match(_NOWHERE, 0), set[int]()
        place = self._latest.get(tuple(self.text[-self.size :]), _NOWHERE)
        for _ in range(CANDIDATES):
            if place == _NOWHERE or best.length >= LONGEST:
                break
            token = self.text[place]
            if token not in refused and (length := self.matched(place)) > best.length:
                if allows(token):
                    best = Match(place, length)
                else:
                    refused.add(token)
            place = self._earlier[place]
        return best if best.length else None

    def matched(self, place: int) -> int:
        """Returns how many tokens before `place` equal the last ones of the text, at most LONGEST."""
        text, end, length = self.text, len(self.text), self.size
        limit = min(place, LONGEST)
        while length < limit and text[place - 1 - length] == text[end - 1 - length]:
            length += 1
        return length


def copy_draft(index: TextIndex, gate: Gate, limit: int, section: Section | None = None) -> Draft:
    """Returns at most `limit` tokens that continue the text of `index` as an earlier part of it goes on.

    Tokens that the gate forces are placed among the copied ones. Where one differs from what would be copied, where the
    gate refuses a token, or where a run ends, the text with the draft is searched again for a continuation that the
    gate allows. At most TRUST tokens are copied for each token of the shortest match. The draft is empty where nothing
    is found, and ends where `section`, the part of the output that its mode may write, does. Neither `gate` nor `index`
    moves.
    """
    draft, written = Draft([gate]), len(index.text)
    place: int | None = None
    trusted = limit
    while len(draft.tokens) < limit and not (draft.ended or draft.leaves):
        gate = draft.gates[-1].fork()
        token, origin = gate.forced(), "f"
        if token is None:
            if place is None or not gate.allows(index.text[place]):
                match = index.longest(gate.allows)
                place, trusted = (None, 0) if match is None else (match.place, min(trusted, TRUST * match.length))
            if place is None or not trusted:
                break
            token, origin, trusted = gate.resolve(index.text[place]), "a", trusted - 1
        place = _following(index, place, token)
        draft.add(token, origin, 1.0)
        draft.ended = token in gate.ends
        if not draft.ended:
            gate.advance([token])
            draft.gates.append(gate)
            draft.leaves = section not in (None, gate.section)
            index.text.append(token)
    del index.text[written:]
    return draft


def _following(index: TextIndex, place: int | None, token: int) -> int | None:
    """Returns the place after `place` if `token` stands there and the run goes on; the draft itself may be copied."""
    if place is None or index.text[place] != token:
        return None
    return place + 1 if place + 1 == len(index.text) or index.text[place + 1] >= 0 else None
