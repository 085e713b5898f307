"""Pages and the prefix index: references add up, what is found is what was stored, and eviction spares what is in use.

The index is compared with the list of everything that was ever stored in it.
"""

from __future__ import annotations

import random
from collections import Counter

import small
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trimode.engine.kv_cache.pages import PAGE, PagePool, page_bytes, pages_for
from trimode.engine.kv_cache.prefix import PrefixIndex

PAGES = 12


def pool(pages: int = PAGES) -> PagePool:
    size = page_bytes(small.CONFIG, torch.float32) * pages
    return PagePool(small.CONFIG, size, torch.float32, torch.device("cpu"))


def stamp(tokens: list[int], at: int) -> float:
    """A figure that tells one prefix from another: what an entry at position `at` depends on."""
    return float(random.Random(str(tokens[: at + 1])).random())


class IndexMachine(RuleBasedStateMachine):
    """Requests come, write what they commit, store it and go; every stored entry carries the stamp of its prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool()
        self.index = PrefixIndex(self.pool)
        self.live: list[tuple[list[int], list[int]]] = []
        self.stored: list[list[int]] = []

    # Few distinct tokens and lengths near page borders, so that prefixes meet.
    prompts = st.tuples(st.integers(0, 3), st.sampled_from([1, 5, 63, 64, 65, 100, 128, 130, 200]), st.integers(0, 200))

    @rule(shape=prompts)
    def come(self, shape: tuple[int, int, int]) -> None:
        kind, length, fork = shape
        tokens = [7 if at < fork else kind for at in range(length)]
        match = self.index.match(tokens[:-1])
        longest = max((common(tokens[:-1], other) for other in self.stored), default=0)
        assert match.length <= longest
        source = [] if match.partial is None else [match.partial]
        self.pool.hold(match.pages + source)
        need = pages_for(length) - len(match.pages)
        self.index.evict(need - self.pool.free)
        if need > self.pool.free:
            self.pool.drop(match.pages + source)
            return
        fresh = self.pool.take(need)
        for page in source:
            self.pool.copy(page, fresh[0])
        self.pool.drop(source)
        pages = match.pages + fresh
        for at in range(match.length):
            assert self.pool.keys[0, pages[at // PAGE], 0, 0, at % PAGE] == torch.tensor(stamp(tokens, at))
        for at in range(match.length, length):
            assert self.pool.references[pages[at // PAGE]] == 1, "a shared page is never written"
            self.pool.keys[0, pages[at // PAGE], 0, 0, at % PAGE] = stamp(tokens, at)
        self.live.append((tokens, pages))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), keep=st.booleans())
    def go(self, data: st.DataObject, keep: bool) -> None:
        tokens, pages = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        if keep:
            self.index.insert(tokens, pages)
            self.stored.append(tokens)
        self.pool.drop(pages)

    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        before = self.pool.free
        assert self.pool.free - before <= self.index.evict(count) <= count

    @invariant()
    def references_add_up(self) -> None:
        counts = Counter(page for _, pages in self.live for page in pages)
        counts.update(node.page for node in self.index.nodes())
        assert [counts[page] for page in range(PAGES)] == self.pool.references
        assert self.pool.free == PAGES - len(counts)

    def teardown(self) -> None:
        for _, pages in self.live:
            self.pool.drop(pages)
        self.index.clear()
        assert self.pool.free == PAGES


def common(a: list[int], b: list[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=30)


def test_the_longest_prefix_is_found_to_the_token() -> None:
    mine = pool()
    index = PrefixIndex(mine)
    tokens = list(range(1000, 1150))
    pages = mine.take(3)
    index.insert(tokens, pages)
    for length in (1, 63, 64, 65, 128, 149, 150):
        other = [*tokens[:length], 5, 6]
        found = index.match(other)
        assert found.length == length
        assert found.pages == pages[: length // PAGE]
        assert found.partial == (pages[length // PAGE] if length % PAGE else None)
    assert index.match([5]).length == 0


def test_the_least_recently_used_goes_first() -> None:
    mine = pool(3)
    index = PrefixIndex(mine)
    for first in (1, 2, 3):
        page = mine.take(1)
        index.insert([first] * 10, page)
        mine.drop(page)
    index.match([1] * 10)
    assert index.evict(1) == 1
    assert [index.match([first] * 10).length for first in (1, 2, 3)] == [10, 0, 10]


def test_a_longer_tail_replaces_the_shorter_one() -> None:
    mine = pool(2)
    index = PrefixIndex(mine)
    short, long = mine.take(1), mine.take(1)
    index.insert([1] * 10, short)
    index.insert([1] * 30, long)
    mine.drop(short + long)
    assert index.pages == 1
    assert mine.free == 1
    assert index.match([1] * 40).length == 30
