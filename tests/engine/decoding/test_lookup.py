"""Copied drafts equal those of a search that compares every place, in any text and under any grammar."""

from __future__ import annotations

import random

import pytest
import small
from automaton import random_automaton
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive_lookup import copied, longest

from trimode.engine.decoding import lookup
from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.lookup import CAPACITY, Match, TextIndex, copy_draft

ENDS = (small.EOS,)
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
tokens = st.integers(0, 3) | st.integers(0, small.TEXT_VOCAB - 1)
runs_of_text = st.lists(st.lists(tokens, max_size=40), min_size=1, max_size=4).filter(lambda runs: bool(runs[-1]))


def free() -> Gate:
    return Gate(None, ENDS)


def place_of(match: Match | None, runs: list[list[int]]) -> tuple[tuple[int, int], int] | None:
    """A match in the numbers of `naive_lookup`: run, place in it, length."""
    if match is None:
        return None
    at = match.place
    for number, run in enumerate(runs):
        at -= 1  # the border before it
        if at < len(run) or number == len(runs) - 1:
            return (number, at), match.length
        at -= len(run)
    raise AssertionError("no such place")


@given(runs=runs_of_text, later=st.lists(tokens, max_size=30), size=st.integers(1, 4), refused=st.sets(tokens))
@settings(deadline=None, max_examples=400, derandomize=True)
def test_a_search_finds_the_longest_suffix(
    runs: list[list[int]], later: list[int], size: int, refused: set[int]
) -> None:
    """At every length of a text that grows token by token."""
    index, known = TextIndex(runs, size), [list(run) for run in runs]
    for token in (None, *later):
        if token is not None:
            index.extend([token])
            known[-1].append(token)
        for allows in (lambda _: True, lambda token: token not in refused):
            assert place_of(index.longest(allows), known) == longest(known, known[-1], size, allows)


@given(runs=runs_of_text, size=st.integers(1, 4), limit=st.integers(0, 40), seed=st.none() | st.integers(0, 500))
@settings(deadline=None, max_examples=400, derandomize=True)
def test_a_draft_is_that_of_the_twin(runs: list[list[int]], size: int, limit: int, seed: int | None) -> None:
    rule = None if seed is None else random_automaton(seed, small.VOCAB, USABLE, ENDS)
    assume(rule is None or not rule.forced())  # a mode takes forced tokens before it drafts
    index = TextIndex(runs, size)
    before = list(index.text)
    draft = copy_draft(index, Gate(rule, ENDS), limit)
    assert draft.tokens == copied(runs, size, limit, ENDS, rule)
    assert index.text == before, "the index is where it was"
    assert len(draft.gates) == len(draft.tokens) + 1 - draft.ended
    assert not draft.refused
    index.extend([1, 2])
    assert index.longest(lambda _: True) == TextIndex([*runs[:-1], [*runs[-1], 1, 2]], size).longest(lambda _: True)


def test_a_draft_may_copy_itself() -> None:
    assert copy_draft(TextIndex([[7, 8, 9, 7, 8, 9]], 1), free(), 20).tokens == [7, 8, 9, 7, 8, 9]
    assert copy_draft(TextIndex([[7] * 12], 1), free(), 20).tokens == [7] * 20


def test_no_match_and_no_draft_crosses_the_border_of_a_run() -> None:
    assert copy_draft(TextIndex([[1, 2], [8, 2], [2]], 1), free(), 9).tokens == []
    assert copy_draft(TextIndex([[1, 2, 6], [4, 9, 2]], 1), free(), 9).tokens == [6]
    assert TextIndex([[4, 1], [2, 8], [1, 2]], 2).longest(lambda _: True) is None


def test_a_draft_ends_with_an_end_token() -> None:
    draft = copy_draft(TextIndex([[1, 2, small.EOS, 6, 6], [1, 2]], 1), free(), 9)
    assert (draft.tokens, draft.ended, draft.to_verify) == ([small.EOS], True, [])


def test_the_latest_text_is_kept_where_there_is_too_much() -> None:
    run = [1, 2, 9, *random.Random(1).choices(range(10, 38), k=CAPACITY), 1, 2]
    index = TextIndex([run], 2)
    assert len(index.text) == CAPACITY
    assert index.longest(lambda _: True) is None


@pytest.mark.parametrize("text", [[5] * 5000, [5, 6] * 2500, [*range(30), *range(30)] * 90])
def test_a_search_compares_few_places_in_text_that_repeats(text: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    index, compared = TextIndex([text], 1), list[int]()
    original = TextIndex.matched

    def counted(self: TextIndex, place: int) -> int:
        compared.append(place)
        return original(self, place)

    monkeypatch.setattr(TextIndex, "matched", counted)
    assert index.longest(lambda token: token == 99) is None
    assert len(compared) <= lookup.CANDIDATES
