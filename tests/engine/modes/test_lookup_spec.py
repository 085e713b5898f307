"""Copied drafts change no token: any known text, grammar, temperature and company, and never a pass more than `ar`."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import small
from automaton import random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import mixed_requests
from naive import Naive

from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError
from trimode.engine.options import ArOptions, LookupSpecOptions
from trimode.engine.request import DecodeRequest, Sampling

CAUSAL = replace(small.CONFIG, architecture="LlamaForCausalLM", mask_token_id=None)
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
runs_of_text = st.lists(st.lists(st.integers(0, small.VOCAB - 1), max_size=30).map(tuple), max_size=3).map(tuple)


def asked(seed: int, temperature: float, size: int = 40) -> DecodeRequest:
    """A third of them under a grammar, a third with thinking before it."""
    return DecodeRequest(
        prompt=small.prompt(seed, size),
        sampling=Sampling(temperature=temperature, seed=seed, top_k=seed % 4 * 3),
        max_tokens=60,
        constraint=random_automaton(seed, small.VOCAB, USABLE, (small.EOS,)) if seed % 3 else None,
        thinking=Thinking(end=7, budget=9) if seed % 3 == 2 else None,
    )


@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    size=st.sampled_from([1, 40, 300]),
    block_length=st.integers(2, 40),
    min_match=st.integers(1, 3),
    lookup=runs_of_text,
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_the_tokens_are_those_of_ar_in_no_more_passes(
    seed: int, temperature: float, size: int, block_length: int, min_match: int, lookup: tuple[tuple[int, ...], ...]
) -> None:
    engine = small.engine(small.model(seed % 50, CAUSAL, shared=4, sharpness=3), keep_prefixes=False)
    plain = engine.decode(asked(seed, temperature, size))
    options = LookupSpecOptions(block_length=block_length, min_match=min_match)
    found = engine.decode(replace(asked(seed, temperature, size), options=options, lookup=lookup))
    assert (found.token_ids, found.finish_reason) == (plain.token_ids, plain.finish_reason)
    assert found.stats.forward_passes <= plain.stats.forward_passes
    assert found.stats.prefill_passes == plain.stats.prefill_passes
    assert all(part.forward_passes <= 1 for part in found.rounds[1:])
    forced = [part.origins.count("f") + part.origins.count("b") for part in plain.rounds]
    assert found.stats.forced == sum(forced)


@given(
    seed=st.integers(0, 300),
    temperature=st.sampled_from([0.0, 1.0]),
    block_length=st.integers(2, 20),
    lookup=runs_of_text,
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_lookup_text_serves_as_the_twin_says(
    seed: int, temperature: float, block_length: int, lookup: tuple[tuple[int, ...], ...]
) -> None:
    model = small.model(seed, small.with_ends(small.MASK), shared=4, sharpness=3)
    sampling, prompt = Sampling(temperature=temperature, seed=seed), small.prompt(seed, 12)
    options = LookupSpecOptions(block_length=block_length)
    request = DecodeRequest(prompt=prompt, options=options, sampling=sampling, max_tokens=40, lookup=lookup)
    twin = Naive(model, prompt, sampling, 40, small.TEXT_VOCAB, (small.MASK,))
    twin.lookup_spec(block_length, 1, lookup)
    found = small.engine(model).decode(request)
    assert (list(found.token_ids), found.stats.forward_passes) == (twin.out, twin.passes)


def test_an_earlier_output_is_copied_whole() -> None:
    """Of the same call, 40 tokens take the passes that drafts of 15 need."""
    engine = small.engine(small.model(3, small.with_ends(small.MASK)))
    plain = DecodeRequest(prompt=small.prompt(3, 9), sampling=Sampling(temperature=1.0, seed=8), max_tokens=40)
    before = engine.decode(plain)
    again = engine.decode(replace(plain, options=LookupSpecOptions(min_match=3), lookup=(before.token_ids,)))
    assert again.token_ids == before.token_ids
    assert again.stats.forward_passes < before.stats.forward_passes / 3


@pytest.mark.parametrize("seed", range(3))
def test_in_the_company_of_every_mode(seed: int) -> None:
    model = small.model(seed, shared=3, rank=2)

    def requests() -> list[DecodeRequest]:
        copying = [replace(asked(seed + at, at % 2), options=LookupSpecOptions(block_length=9)) for at in range(6)]
        return [*copying, *mixed_requests(seed, 10)]

    together = small.engine(model).decode_many(requests())
    alone = [small.engine(model).decode(one) for one in requests()]
    assert [found.rounds for found in together] == [found.rounds for found in alone]
    plain = [small.engine(model).decode(replace(asked(seed + at, at % 2), options=ArOptions())) for at in range(6)]
    assert [found.token_ids for found in together[:6]] == [found.token_ids for found in plain]


def test_without_anything_to_copy_every_round_is_one_of_ar() -> None:
    engine = small.engine(small.model(0, CAUSAL))
    request = DecodeRequest(prompt=tuple(range(6, 20)), max_tokens=30, sampling=Sampling(temperature=1.7, seed=4))
    plain = engine.decode(request)
    found = engine.decode(replace(request, options=LookupSpecOptions(min_match=16)))
    assert [replace(part, mode="ar") for part in found.rounds] == list(plain.rounds)
    assert found.stats.query_tokens == plain.stats.query_tokens
    assert len(found.rounds) > 16


@pytest.mark.parametrize("passes", range(1, 12))
def test_a_limit_of_passes_ends_the_output(passes: int) -> None:
    engine = small.engine(small.model(5, small.with_ends(small.MASK), shared=4))
    request = DecodeRequest(prompt=small.prompt(5, 30), options=LookupSpecOptions(), max_tokens=60, max_passes=passes)
    found = engine.decode(request)
    whole = engine.decode(replace(request, max_passes=None))
    assert found.token_ids == whole.token_ids[: len(found.token_ids)]
    assert found.stats.prefill_passes + found.stats.forward_passes <= passes


@pytest.mark.parametrize(
    ("given_", "what"),
    [
        ({"min_match": 0}, "min_match=0"),
        ({"min_match": 17}, "min_match=17"),
        ({"min_match": True}, "min_match=True"),
        ({"block_length": 1}, "block_length=1"),
    ],
)
def test_options_out_of_range_are_refused(given_: dict[str, int], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        LookupSpecOptions(**given_)


def test_lookup_text_holds_token_ids() -> None:
    engine = small.engine(small.model(0))
    for run in ((1, small.VOCAB), (-1,)):
        with pytest.raises(RequestError, match="lookup holds ids outside"):
            engine.decode(DecodeRequest(prompt=(1,), options=LookupSpecOptions(), lookup=((), run)))


def test_long_text_that_repeats_is_drafted_to_the_last_token() -> None:
    """A model that writes one cycle for ever is drafted whole blocks, cut by the output's budget alone."""
    engine = small.engine(small.model(1, small.with_ends(small.MASK), shared=0.5))
    run = tuple(random.Random(1).choices(USABLE, k=12))
    request = DecodeRequest(prompt=run * 3, max_tokens=200)
    plain, found = engine.decode(request), engine.decode(replace(request, options=LookupSpecOptions(block_length=64)))
    assert found.token_ids == plain.token_ids
    assert found.stats.forward_passes < plain.stats.forward_passes / 4
