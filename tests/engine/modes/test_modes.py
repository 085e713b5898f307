"""What the modes promise: the naive decoders' ids and passes, exact modes that agree, batches that change nothing,
budgets, stop strings and grammars that are kept, and counts that add up.

Models are random and small; each case is seeded, so a failure repeats.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import small
import torch
from automaton import Automaton, accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import mixed_requests
from naive import Naive
from twins import add_up, decode, run_naive, samplings

from trimode.engine.errors import PromptTooLong, RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.options import (
    SELECTIONS,
    ArOptions,
    DiffusionOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    Options,
    QuadraticSpecOptions,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=40)
NO_END = small.with_ends(small.MASK)  # the mask token is never chosen, so such a text ends by its budget alone

any_options = st.one_of(
    st.builds(ArOptions),
    st.builds(
        DiffusionOptions,
        block_length=st.integers(2, 12),
        threshold=st.sampled_from([0.1, 0.3, 0.6, 0.9, 1.0]),
        selection=st.sampled_from(SELECTIONS),
    ),
    st.builds(LinearSpecOptions, block_length=st.integers(2, 12), exact_first=st.booleans()),
    st.builds(QuadraticSpecOptions, block_length=st.integers(2, 12)),
    st.builds(LookupSpecOptions, block_length=st.integers(2, 12), min_match=st.integers(1, 3)),
)
models = st.builds(
    small.model,
    st.integers(0, 1000),
    st.sampled_from([small.CONFIG, NO_END, replace(small.CONFIG, tie_word_embeddings=True)]),
    shared=st.sampled_from([0.5, 2.0, 4.0]),
    sharpness=st.sampled_from([2.0, 6.0]),
    rank=st.sampled_from([0, 2]),
)


@given(
    model=models,
    options=any_options,
    sampling=samplings,
    prompt=st.lists(st.integers(0, small.VOCAB - 1), min_size=1, max_size=20).map(tuple),
    max_tokens=st.integers(1, 30),
)
@settings(EXAMPLES, max_examples=120)
def test_every_mode_equals_its_naive_twin(
    model: Transformer, options: Options, sampling: Sampling, prompt: tuple[int, ...], max_tokens: int
) -> None:
    engine = small.engine(model)
    request = DecodeRequest(prompt=prompt, options=options, sampling=sampling, max_tokens=max_tokens)
    result, plain = decode(engine, request), run_naive(engine, request)
    assert list(result.token_ids) == plain.out
    assert result.stats.forward_passes == plain.passes
    assert result.stats.prefill_passes == 1


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        LinearSpecOptions(block_length=16),
        LinearSpecOptions(block_length=16, exact_first=True),
        QuadraticSpecOptions(block_length=16),
        LookupSpecOptions(block_length=32),
        DiffusionOptions(block_length=32, threshold=0.3, selection="text_first"),
        DiffusionOptions(block_length=32, threshold=0.3, selection="vendor"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_long_blocks_equal_their_naive_twin(options: Options, temperature: float, rank: int) -> None:
    engine = small.engine(small.model(rank, NO_END, shared=4, sharpness=3, rank=rank))
    request = DecodeRequest(
        prompt=small.prompt(1, 60), options=options, sampling=Sampling(temperature=temperature, seed=9), max_tokens=75
    )
    result, plain = decode(engine, request), run_naive(engine, request)
    assert list(result.token_ids) == plain.out
    assert result.stats.forward_passes == plain.passes


@given(
    model=models,
    sampling=samplings,
    block_length=st.integers(2, 40),
    prompt_seed=st.integers(0, 1000),
    size=st.integers(1, 70),
)
@EXAMPLES
def test_exact_modes_return_the_same_ids(
    model: Transformer, sampling: Sampling, block_length: int, prompt_seed: int, size: int
) -> None:
    engine = small.engine(model, keep_prefixes=False)
    request = DecodeRequest(prompt=small.prompt(prompt_seed, size), sampling=sampling, max_tokens=50)
    plain = decode(engine, request).token_ids
    for kind in (LinearSpecOptions, QuadraticSpecOptions, LookupSpecOptions):
        options = kind(block_length=block_length)
        assert decode(engine, replace(request, options=options)).token_ids == plain


@given(
    model=models,
    sampling=samplings,
    block_length=st.integers(2, 12),
    rows=st.integers(1, 13),
    constrained=st.booleans(),
    seed=st.integers(0, 1000),
)
@EXAMPLES
def test_fewer_prepared_points_change_the_passes_but_no_token(
    model: Transformer, sampling: Sampling, block_length: int, rows: int, constrained: bool, seed: int
) -> None:
    engine = small.engine(model)

    def ask(rows: int | None) -> DecodeResult:
        usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
        grammar = random_automaton(seed, small.VOCAB, usable, model.config.eos_token_ids) if constrained else None
        return decode(
            engine,
            DecodeRequest(
                prompt=small.prompt(seed, 9),
                options=QuadraticSpecOptions(block_length=block_length, rows=rows),
                sampling=sampling,
                max_tokens=40,
                constraint=grammar,
            ),
        )

    whole, few = ask(None), ask(rows)
    assert few.token_ids == whole.token_ids
    assert few.stats.forward_passes >= whole.stats.forward_passes
    if rows >= block_length:
        assert few.rounds == whole.rounds


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_models_of_these_tests_accept_and_reject_drafts(temperature: float) -> None:
    accepted = rejected = 0
    for seed in range(8):
        engine = small.engine(small.model(seed, NO_END, shared=4, sharpness=2))
        options, sampling = LinearSpecOptions(block_length=8), Sampling(temperature=temperature, seed=1)
        request = DecodeRequest(prompt=small.prompt(seed, 9), options=options, sampling=sampling, max_tokens=40)
        stats = decode(engine, request).stats
        accepted, rejected = accepted + stats.accepted, rejected + stats.rejected
    assert accepted > 80
    assert rejected > 80


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_in_mixed_modes_gives_each_request_what_it_gets_alone(seed: int) -> None:
    model = small.model(seed, shared=2, rank=2)
    together = small.engine(model).decode_many(mixed_requests(seed, 16))
    for request, again, found in zip(mixed_requests(seed, 16), mixed_requests(seed, 16), together, strict=True):
        add_up(request, found, (small.EOS,))
        alone = small.engine(model).decode(again)
        assert found.token_ids == alone.token_ids
        assert found.text == alone.text
        assert found.rounds == alone.rounds
        assert found.stats.forward_passes == alone.stats.forward_passes


@given(model=models, options=any_options, sampling=samplings, cut=st.integers(1, 60), seed=st.integers(0, 99))
@EXAMPLES
def test_a_reused_prefix_changes_nothing(
    model: Transformer, options: Options, sampling: Sampling, cut: int, seed: int
) -> None:
    engine = small.engine(model)
    first = DecodeRequest(prompt=small.prompt(seed, 60), options=options, sampling=sampling, max_tokens=20)
    before = decode(engine, first)
    known = (*first.prompt, *before.token_ids)
    second = replace(first, prompt=(*known[:cut], *small.prompt(seed + 1, 7)))
    for request, least in ((first, 59), (second, cut)):
        warm, cold = decode(engine, request), decode(small.engine(model), request)
        assert warm.stats.cached_tokens >= least
        assert cold.stats.cached_tokens == 0
        assert warm.token_ids == cold.token_ids
        assert warm.rounds == cold.rounds


@given(model=models, options=any_options, sampling=samplings)
@EXAMPLES
def test_a_conversation_prefills_only_what_is_new(model: Transformer, options: Options, sampling: Sampling) -> None:
    engine = small.engine(model)
    history = small.prompt(0, 11)
    for turn in range(3):
        request = DecodeRequest(prompt=history, options=options, sampling=sampling, max_tokens=15)
        warm = decode(engine, request)
        assert warm.token_ids == decode(small.engine(model), request).token_ids
        if turn:
            assert warm.stats.cached_tokens >= 11
        history = (*history, *warm.token_ids, *small.prompt(turn, 3))


@pytest.mark.parametrize(
    "options",
    [
        ArOptions(),
        DiffusionOptions(block_length=8, threshold=0.2),
        LinearSpecOptions(block_length=8),
        QuadraticSpecOptions(block_length=8),
        LookupSpecOptions(block_length=8),
    ],
    ids=lambda o: o.mode,
)
def test_the_budget_holds_exactly(options: Options) -> None:
    engine = small.engine(small.model(2, NO_END, shared=4))
    whole = decode(engine, DecodeRequest(prompt=(1, 2), options=options, max_tokens=30)).token_ids
    for budget in range(1, 30):
        result = decode(engine, DecodeRequest(prompt=(1, 2), options=options, max_tokens=budget))
        assert result.token_ids == whole[:budget]
        assert result.finish_reason == "length"


@pytest.mark.parametrize("top_p", [1e-9, 1e-40, 1e-46, 5e-324])
def test_the_best_token_is_left_by_any_top_p(top_p: float) -> None:
    engine, prompt = small.engine(small.model(3, shared=2.0)), small.prompt(3, 9)
    found = [
        engine.decode(DecodeRequest(prompt=prompt, options=ArOptions(), sampling=sampling, max_tokens=20)).token_ids
        for sampling in (Sampling(temperature=0), Sampling(temperature=1.7, top_p=top_p, seed=5))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "options",
    [
        ArOptions(),
        DiffusionOptions(block_length=8),
        LinearSpecOptions(block_length=8),
        QuadraticSpecOptions(),
        LookupSpecOptions(),
    ],
    ids=lambda o: o.mode,
)
def test_one_token_needs_no_pass_beyond_prefill(options: Options) -> None:
    result = decode(small.engine(small.model(2)), DecodeRequest(prompt=(1, 2), options=options, max_tokens=1))
    assert len(result.token_ids) == 1
    assert result.stats.forward_passes == 0
    assert result.stats.tokens_per_forward is None


def test_several_end_tokens_end_the_text_at_the_first() -> None:
    everything = tuple(range(0, small.VOCAB, 2))
    engine = small.engine(small.model(3, small.with_ends(*everything), shared=2))
    for options in (
        ArOptions(),
        DiffusionOptions(block_length=8),
        LinearSpecOptions(block_length=8),
        QuadraticSpecOptions(block_length=8),
        LookupSpecOptions(block_length=8),
    ):
        for seed in range(8):
            sampling = Sampling(temperature=1.5, seed=seed)
            decode(engine, DecodeRequest(prompt=(1,), options=options, sampling=sampling, max_tokens=30))


def earliest_stop(ids: tuple[int, ...], stop: tuple[str, ...]) -> tuple[int, str] | None:
    """Tokens kept and text left, by trying every length."""
    for count in range(1, len(ids) + 1):
        text = small.text(ids[:count])
        if any(part in text for part in stop):
            return count, text[: min(text.find(part) for part in stop if part in text)]
    return None


@given(
    model=models,
    options=st.one_of(
        st.builds(ArOptions),
        st.builds(LinearSpecOptions, block_length=st.integers(2, 12)),
        st.builds(QuadraticSpecOptions, block_length=st.integers(2, 12)),
    ),
    seed=st.integers(0, 99),
    stop=st.lists(
        st.sampled_from(["ab", "ba", "aab", "xyx", "bc", "é", "abcab", " ", "zx", "never"]), min_size=1, max_size=3
    ),
)
@EXAMPLES
def test_a_stop_string_cuts_at_the_earliest_token(
    model: Transformer, options: Options, seed: int, stop: list[str]
) -> None:
    engine = small.engine(model)
    request = DecodeRequest(
        prompt=(1, 2, 3), options=options, sampling=Sampling(temperature=2.0, seed=seed), max_tokens=40
    )
    unstopped = decode(engine, request)
    stopped = decode(engine, replace(request, stop=tuple(stop)))
    expected = earliest_stop(unstopped.token_ids, tuple(stop))
    if expected is None:
        assert stopped.token_ids == unstopped.token_ids
        assert stopped.text == unstopped.text
    else:
        count, text = expected
        assert stopped.token_ids == unstopped.token_ids[:count]
        assert stopped.text == text
        assert stopped.finish_reason == "stop"
        assert not any(part in stopped.text for part in stop)


@pytest.mark.parametrize("seed", range(10))
def test_a_stop_string_holds_in_diffusion(seed: int) -> None:
    engine = small.engine(small.model(seed, NO_END, shared=2))
    request = DecodeRequest(
        prompt=(1, 2, 3),
        options=DiffusionOptions(block_length=8, threshold=0.3),
        sampling=Sampling(temperature=2.0, seed=seed),
        max_tokens=40,
    )
    unstopped = decode(engine, request)
    piece = small.text(unstopped.token_ids)[5:8]
    expected = earliest_stop(unstopped.token_ids, (piece,))
    assert expected is not None
    stopped = decode(engine, replace(request, stop=(piece,)))
    assert (len(stopped.token_ids), stopped.text) == expected


def automaton(seed: int) -> Automaton:
    usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
    return random_automaton(seed, small.VOCAB, usable, (small.EOS,))


@given(
    model=models,
    sampling=samplings,
    options=st.one_of(
        st.builds(LinearSpecOptions, block_length=st.integers(2, 24)),
        st.builds(QuadraticSpecOptions, block_length=st.integers(2, 24)),
    ),
    seed=st.integers(0, 10_000),
    max_tokens=st.integers(1, 40),
)
@settings(EXAMPLES, max_examples=120)
def test_exact_modes_agree_under_a_constraint(
    model: Transformer, sampling: Sampling, options: Options, seed: int, max_tokens: int
) -> None:
    model.config = small.CONFIG
    engine = small.engine(model)
    request = DecodeRequest(prompt=(1, 2), sampling=sampling, max_tokens=max_tokens, constraint=automaton(seed))
    spec = replace(request, options=options, constraint=automaton(seed))
    plain = Naive(model, request.prompt, sampling, max_tokens, small.TEXT_VOCAB, (small.EOS,))
    plain.ar(automaton(seed))
    found, drafted = decode(engine, request), decode(engine, spec)
    assert list(found.token_ids) == plain.out
    assert found.stats.forward_passes == plain.passes
    assert found.stats.forced == plain.forced
    assert drafted.token_ids == found.token_ids
    assert drafted.stats.forced == plain.forced
    assert all("c" not in round_.origins[:-1] for round_ in drafted.rounds), (
        "a round ends at the first token not drafted"
    )
    assert accepts(automaton(seed), found.token_ids)


@given(
    model=models,
    sampling=samplings,
    block_length=st.integers(2, 24),
    threshold=st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.0]),
    seed=st.integers(0, 10_000),
    max_tokens=st.integers(1, 40),
)
@settings(EXAMPLES, max_examples=150)
def test_diffusion_keeps_to_the_grammar_in_bounded_passes(
    model: Transformer, sampling: Sampling, block_length: int, threshold: float, seed: int, max_tokens: int
) -> None:
    model.config = small.CONFIG
    options = DiffusionOptions(block_length=block_length, threshold=threshold)
    request = DecodeRequest(
        prompt=(1, 2), options=options, sampling=sampling, max_tokens=max_tokens, constraint=automaton(seed)
    )
    result = decode(small.engine(model), request)
    assert accepts(automaton(seed), result.token_ids)
    for found in result.rounds:
        assert found.forward_passes <= 2 * block_length
    assert result.stats.forward_passes <= 3 * len(result.token_ids) + 2 * block_length


@pytest.mark.parametrize(
    "options",
    [
        ArOptions(),
        DiffusionOptions(block_length=4),
        LinearSpecOptions(block_length=4),
        QuadraticSpecOptions(block_length=4),
    ],
    ids=lambda o: o.mode,
)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
def test_a_wholly_forced_text_needs_no_pass(options: Options, length: int) -> None:
    moves = {state: {10 + state: state + 1} for state in range(length)} | {length: dict[int, int]()}
    engine = small.engine(small.model(4))
    rule = Automaton(moves, frozenset({length}), (small.EOS,), small.VOCAB)
    whole = decode(engine, DecodeRequest(prompt=(1,), options=options, max_tokens=20, constraint=rule.fork()))
    assert whole.token_ids == (*range(10, 10 + length), small.EOS)
    assert whole.stats.forced == length + 1
    assert whole.stats.forward_passes == whole.stats.prefill_passes == 0
    cut = decode(engine, DecodeRequest(prompt=(1,), options=options, max_tokens=length, constraint=rule.fork()))
    assert cut.token_ids == tuple(range(10, 10 + length))
    assert cut.finish_reason == "length"


@pytest.mark.parametrize(
    "options",
    [
        ArOptions(),
        DiffusionOptions(block_length=4),
        LinearSpecOptions(block_length=4),
        QuadraticSpecOptions(block_length=4),
    ],
    ids=lambda o: o.mode,
)
def test_forced_stretches_longer_than_a_block_are_taken_whole(options: Options) -> None:
    moves = {state: {10 + state % 9: (state + 1) % 22} for state in range(22)}
    moves[0] = {8: 1, 9: 1}
    moves[11] = {6: 12, 7: 12}
    rule = Automaton(moves, frozenset(), (small.EOS,), small.VOCAB)
    engine = small.engine(small.model(5, shared=2))
    result = decode(engine, DecodeRequest(prompt=(1,), options=options, max_tokens=66, constraint=rule.fork()))
    assert accepts(rule, result.token_ids)
    assert result.stats.forced == 60
    assert "f" * 10 in "".join(r.origins for r in result.rounds)


VOCABULARY = 6
TOY = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    mask_token_id=5,
    eos_token_ids=(3,),
    rope=small.CONFIG.rope,
)


def exact_pairs(model: Transformer, prompt: tuple[int, ...], temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of every output of at most two tokens."""
    plain = Naive(model, prompt, Sampling(), 2, VOCABULARY, (3,))

    def chances(context: tuple[int, ...]) -> list[float]:
        scores = plain.forward(context)[-1].double() / temperature
        scores[TOY.mask_token_id] = -torch.inf
        return [float(chance) for chance in scores.softmax(0)]

    found: dict[tuple[int, ...], float] = {}
    for first, chance in enumerate(chances(prompt)):
        if first == 3:
            found[(first,)] = chance
        else:
            found |= {(first, second): chance * other for second, other in enumerate(chances((*prompt, first)))}
    return found


@pytest.mark.parametrize(
    "options",
    [ArOptions(), LinearSpecOptions(block_length=4), QuadraticSpecOptions(block_length=3)],
    ids=lambda options: options.mode,
)
def test_sampled_outputs_follow_the_models_distribution(options: Options) -> None:
    """Total variation to exact enumeration; with 40,000 draws over these outcomes about 0.006 is left to chance."""
    made = small.model(1, TOY, shared=1.0, sharpness=1.0)
    engine, seeds, size = small.engine(made), 40_000, 500
    prompt, temperature = (0, 1, 2), 0.9
    counts: Counter[tuple[int, ...]] = Counter()
    for at in range(0, seeds, size):
        requests = [
            DecodeRequest(
                prompt=prompt, options=options, sampling=Sampling(temperature=temperature, seed=seed), max_tokens=3
            )
            for seed in range(at, at + size)
        ]
        counts.update(result.token_ids[:2] for result in engine.decode_many(requests))
    exact = exact_pairs(made, prompt, temperature)
    assert sum(exact.values()) == pytest.approx(1)
    assert set(counts) <= set(exact)
    assert max(exact.values()) < 0.5
    distance = sum(abs(counts[pair] / seeds - chance) for pair, chance in exact.items()) / 2
    assert distance <= 0.01


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    engine = small.engine(small.model(1))
    with pytest.raises(
        PromptTooLong, match=r"4000 tokens \+ max_tokens=97 exceeds the context of 4096 tokens.*at most 96"
    ):
        engine.decode(DecodeRequest(prompt=(1,) * 4000, max_tokens=97))


@pytest.mark.parametrize("token", [-1, small.VOCAB])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(RequestError, match=r"outside 0\.\.39"):
        small.engine(small.model(1)).decode(DecodeRequest(prompt=(1, token), max_tokens=2))
