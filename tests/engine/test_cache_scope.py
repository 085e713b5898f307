"""Scopes of cached prefixes: found only by the scope that stored them, evicted from all alike, and no token changed."""

from __future__ import annotations

import random

import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.engine.kv_cache.pages import PAGE, PagePool, page_bytes
from trimode.engine.kv_cache.prefix import PrefixIndex
from trimode.engine.request import DecodeRequest
from trimode.engine.scoring import QuestionsRequest, ScoreRequest, TokenLogprobsRequest

SCOPES = [None, "a", "b"]


@given(steps=st.lists(st.tuples(st.sampled_from(SCOPES), st.integers(0, 2), st.integers(1, 200)), max_size=40))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_each_scope_finds_what_an_index_of_its_own_would_find(steps: list[tuple[str | None, int, int]]) -> None:
    size = page_bytes(small.CONFIG, torch.float32) * 200
    pool = PagePool(small.CONFIG, size, torch.float32, torch.device("cpu"))
    shared, own = PrefixIndex(pool), {scope: PrefixIndex(pool) for scope in SCOPES}
    for scope, kind, length in steps:
        tokens = [kind] * length
        assert shared.match(tokens, scope).length == own[scope].match(tokens).length
        pages = pool.take(-(-length // PAGE))
        shared.insert(tokens, pages, scope)
        own[scope].insert(tokens, pages)
        pool.drop(pages)
    assert shared.pages == sum(index.pages for index in own.values())


def test_evicted_scopes_leave_nothing_behind() -> None:
    engine = small.engine(small.model(1), kv_bytes=page_bytes(small.CONFIG, torch.float32) * 4)
    for number in range(50):
        engine.decode(DecodeRequest(prompt=(1,) * 100, max_tokens=3, cache_scope=f"tenant {number}"))
    assert engine.index.pages <= 4
    assert engine.index.scopes <= 4
    engine.index.clear()
    assert engine.pool.free == engine.pool.pages


def test_a_scope_reads_only_its_own_prefixes_and_gets_the_same_tokens() -> None:
    engine = small.engine(small.model(2))
    results = {}
    for scope in (None, "a", "b"):
        request = DecodeRequest(prompt=small.prompt(1, 150), max_tokens=10, cache_scope=scope)
        cold, warm = engine.decode(request), engine.decode(request)
        assert (cold.stats.cached_tokens, warm.stats.cached_tokens) == (0, 149)
        results[scope] = (cold.token_ids, warm.token_ids)
    assert len(set(results.values())) == 1


def test_every_kind_of_request_has_a_scope() -> None:
    engine, prompt = small.engine(small.model(2)), small.prompt(1, 150)
    engine.decode(DecodeRequest(prompt=prompt, max_tokens=1, cache_scope="a"))
    for scope, cached in ((None, 0), ("a", 149)):
        scored = ScoreRequest(prompt=prompt, candidates=((1,),), cache_scope=scope)
        assert engine.decode(scored).stats.cached_tokens == cached
    assert engine.decode(TokenLogprobsRequest(prompt=prompt, tokens=(1,), cache_scope="b")).stats.cached_tokens == 0
    assert QuestionsRequest.__dataclass_fields__["cache_scope"].default is None


def test_scopes_that_come_together_wait_for_their_own_prefix_only() -> None:
    engine, rng = small.engine(small.model(3)), random.Random(1)
    requests = [
        DecodeRequest(prompt=(*small.prompt(7, 300), at), max_tokens=4, cache_scope=rng.choice(SCOPES))
        for at in range(12)
    ]
    together = engine.decode_many(requests)
    alone = [small.engine(small.model(3), keep_prefixes=False).decode(request) for request in requests]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    seen = set[str | None]()
    for request, result in zip(requests, together, strict=True):
        assert result.stats.cached_tokens >= (256 if request.cache_scope in seen else 0)
        assert request.cache_scope in seen or result.stats.cached_tokens == 0
        seen.add(request.cache_scope)
