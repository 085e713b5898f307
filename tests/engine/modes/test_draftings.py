"""Every way to draft: what stands in the slots, what they see and predict, and what the drafting pass decides.

All of them write the tokens of `ar`, and take the passes of the cache-free twin.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
from automaton import random_automaton
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twins import decode, run_naive, samplings

from trimode.engine.drafting import Drafting, Noise
from trimode.engine.errors import RequestError
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.models.model import Transformer
from trimode.engine.options import ArOptions, DiffusionOptions, ExactOptions, LinearSpecOptions, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult

UNO = Drafting(
    noise=Noise(first=1, last=small.MASK - 1),
    causal=True,
    ahead=True,
    exact_first=True,
    seed_in_draft=False,
    longest=16,
)
draftings = st.builds(
    Drafting,
    noise=st.sampled_from([Noise.mask(small.MASK), Noise(first=1, last=small.MASK - 1), Noise(first=0, last=30)]),
    causal=st.booleans(),
    ahead=st.booleans(),
    exact_first=st.booleans(),
    seed_in_draft=st.booleans(),
    longest=st.sampled_from([None, 2, 5, 16]),
)
options = st.one_of(
    st.builds(
        LinearSpecOptions,
        block_length=st.none() | st.integers(2, 12),
        exact_first=st.sampled_from([None, True, False]),
    ),
    st.builds(QuadraticSpecOptions, block_length=st.none() | st.integers(2, 12)),
)


def model(seed: int, drafting: Drafting | None, shared: float = 4.0) -> Transformer:
    config = replace(small.CONFIG, drafts=drafting)
    return small.model(seed, config, shared=shared, rank=2, adapted=list(PROJECTIONS))


def asked(options: ExactOptions, sampling: Sampling, max_tokens: int = 24, prompt: int = 5) -> DecodeRequest:
    return DecodeRequest(prompt=small.prompt(prompt, prompt), options=options, sampling=sampling, max_tokens=max_tokens)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    drafting=draftings,
    options=options,
    sampling=samplings,
    prompt=st.integers(1, 20),
    max_tokens=st.integers(1, 30),
)
def test_drafts_of_every_kind_equal_their_twin(
    seed: int, drafting: Drafting, options: ExactOptions, sampling: Sampling, prompt: int, max_tokens: int
) -> None:
    assume(drafting.seed_in_draft or drafting.exact_first or not isinstance(options, LinearSpecOptions))
    assume(drafting.seed_in_draft or getattr(options, "exact_first", None) is not False)
    with small.engine(model(seed, drafting)) as engine:
        request = engine.check(asked(options, sampling, max_tokens, prompt))
        result, plain = decode(engine, request), run_naive(engine, request)
        assert list(result.token_ids) == plain.out
        assert result.stats.forward_passes == plain.passes
        assert engine.decode(replace(request, options=ArOptions())).token_ids == result.token_ids
        assert engine.decode(request).rounds == result.rounds


def floor(result: DecodeResult) -> None:
    """The first cycle shares the prompt's pass; each later one commits two tokens in two passes at least."""
    assert result.stats.forward_passes <= result.stats.output_tokens
    for round_ in result.rounds[1:-1]:
        assert len(round_.tokens) >= round_.forward_passes


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("drafting", [None, UNO], ids=["masks", "uno"])
@pytest.mark.parametrize("shared", [0.0, 4.0])
def test_a_cycle_that_decides_a_token_takes_no_more_passes_than_ar(
    temperature: float, drafting: Drafting | None, shared: float
) -> None:
    with small.engine(model(3, drafting, shared)) as engine:
        for seed in range(4):
            sampling = Sampling(temperature=temperature, seed=seed)
            ar = engine.decode(asked(ArOptions(), sampling, 40, seed + 2))
            found = engine.decode(asked(LinearSpecOptions(block_length=6, exact_first=True), sampling, 40, seed + 2))
            assert found.token_ids == ar.token_ids
            assert found.stats.forward_passes <= ar.stats.forward_passes
            floor(found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    drafting=st.sampled_from([None, UNO]),
    sampling=samplings,
    block_length=st.integers(2, 10),
    max_tokens=st.integers(4, 40),
    states=st.integers(0, 1000),
)
def test_under_a_grammar_it_writes_what_ar_writes(
    seed: int, drafting: Drafting | None, sampling: Sampling, block_length: int, max_tokens: int, states: int
) -> None:
    def constrained(options: ExactOptions) -> DecodeRequest:
        usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
        grammar = random_automaton(states, small.VOCAB, usable, (small.EOS,))
        return replace(asked(options, sampling, max_tokens), constraint=grammar)

    with small.engine(model(seed, drafting)) as engine:
        ar = engine.decode(constrained(ArOptions()))
        found = decode(engine, constrained(LinearSpecOptions(block_length=block_length, exact_first=True)))
        assert found.token_ids == ar.token_ids
        assert found.stats.forward_passes <= ar.stats.forward_passes


def test_blocks_that_an_adapter_fills_equal_their_twin() -> None:
    fills = Drafting(noise=Noise.mask(small.MASK), seed_in_draft=False, exact_first=True, fills=True)
    with small.engine(model(5, fills)) as engine:
        for seed in range(6):
            request = DecodeRequest(
                prompt=small.prompt(seed, 4),
                options=DiffusionOptions(block_length=6, threshold=0.4, selection="text_first"),
                sampling=Sampling(temperature=0.5 * (seed % 2), seed=seed),
                max_tokens=20,
            )
            result, plain = decode(engine, request), run_naive(engine, request)
            assert list(result.token_ids) == plain.out
            assert result.stats.forward_passes == plain.passes


def test_a_layout_that_an_adapter_was_not_trained_for_is_refused() -> None:
    with small.engine(model(1, UNO)) as engine:
        with pytest.raises(RequestError, match="exact_first=False: the draft adapter was trained with the last known"):
            engine.check(asked(LinearSpecOptions(exact_first=False), Sampling()))
        fitted = [engine.check(asked(o, Sampling())).options for o in (LinearSpecOptions(), QuadraticSpecOptions())]
    assert fitted == [LinearSpecOptions(block_length=16, exact_first=True), QuadraticSpecOptions(block_length=16)]


def test_random_slots_are_those_of_splitmix64() -> None:
    """The first outputs of SplitMix64 from state 0, as published with it."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    noise = Noise(first=7, last=7 + (1 << 32) - 1)
    start = words[0]  # seed 0
    expected = [7 + (word >> 32) for word in words]
    found = noise.ids(0, [at - start for at in range(3)])
    assert list(found) == expected


@given(first=st.integers(0, 5), size=st.integers(1, 300_000), seed=st.integers(0, 2**64 - 1), at=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_random_slots_stay_in_their_range_and_depend_on_their_position_alone(
    first: int, size: int, seed: int, at: int
) -> None:
    noise = Noise(first=first, last=first + size - 1)
    found = noise.ids(seed, range(at, at + 9))
    assert all(noise.first <= token <= noise.last for token in found)
    assert found[4:] == noise.ids(seed, range(at + 4, at + 9))


def test_random_slots_are_uniform() -> None:
    noise, counts = Noise(first=0, last=9), [0] * 10
    for token in noise.ids(3, range(20_000)):
        counts[token] += 1
    assert sum((count - 2000) ** 2 / 2000 for count in counts) < 27.9, "chi-square of 9 degrees, one in a thousand"
