"""Log-probabilities of given tokens: those of a whole forward, the same for every mode, and bounded in rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive

from trimode.engine.errors import CallCancelled, PromptTooLong, RequestError
from trimode.engine.models.model import Transformer
from trimode.engine.modes.token_logprobs import ROWS, likeliest
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.scoring import TokenLogprobsRequest

QUICK = settings(deadline=None, derandomize=True, max_examples=20)
MODES: list[Options] = [
    ArOptions(),
    LinearSpecOptions(block_length=5),
    QuadraticSpecOptions(block_length=5),
    DiffusionOptions(block_length=6, threshold=0.4),
]
UNUSABLE = [small.MASK, *range(small.TEXT_VOCAB, small.VOCAB)]


def twin(model: Transformer, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities [tokens, V] of one whole forward without a cache."""
    plain = Naive(model, prompt, Sampling(), 1, small.TEXT_VOCAB, (small.EOS,))
    rows = plain.forward([*prompt, *tokens[:-1]])[len(prompt) - 1 :].double()
    rows[:, UNUSABLE] = -torch.inf
    return rows.log_softmax(-1)


@given(seed=st.integers(0, 50), size=st.integers(1, 140), length=st.integers(1, 150), top=st.integers(0, 20))
@QUICK
def test_they_are_those_of_a_whole_forward(seed: int, size: int, length: int, top: int) -> None:
    model, prompt = small.model(seed, shared=0.5), small.prompt(seed, size)
    tokens = tuple(token % small.TEXT_VOCAB for token in small.prompt(seed + 1, length))
    found = small.engine(model).decode(TokenLogprobsRequest(prompt=prompt, tokens=tokens, top=top))
    expected = twin(model, prompt, tokens)
    assert found.logprobs == pytest.approx(expected[range(length), list(tokens)].tolist(), abs=1e-4)
    assert len(found.logprobs) == len(found.top) == length
    for row, best in zip(expected, found.top, strict=True):
        assert [value for _, value in best] == pytest.approx(row.sort(descending=True).values[:top].tolist(), abs=1e-4)
        assert not {token for token, _ in best} & set(UNUSABLE)


@given(seed=st.integers(0, 50), temperature=st.sampled_from([0.0, 1.0]), size=st.integers(1, 140))
@QUICK
def test_no_mode_cache_or_chunk_changes_a_bit(seed: int, temperature: float, size: int) -> None:
    model, prompt = small.model(seed, shared=2.0), small.prompt(seed, size)
    engine, alone = small.engine(model), small.engine(model, keep_prefixes=False)
    for options in MODES:
        asked = DecodeRequest(
            prompt=prompt, options=options, sampling=Sampling(temperature=temperature, seed=seed), max_tokens=20
        )
        made = engine.decode(asked).token_ids
        request = TokenLogprobsRequest(prompt=prompt, tokens=made, top=3)
        found = engine.decode(request)
        cold = alone.decode(request)
        assert (found.logprobs, found.top) == (cold.logprobs, cold.top)
        one_by_one = [
            alone.decode(TokenLogprobsRequest(prompt=prompt + made[:at], tokens=made[at : at + 1])).logprobs[0]
            for at in range(len(made))
        ]
        assert list(found.logprobs) == one_by_one
        assert found.stats.cached_tokens == len(prompt) - 1
        assert found.stats.prefill_passes + found.stats.forward_passes == 1


def test_greedy_tokens_are_the_likeliest() -> None:
    engine, prompt = small.engine(small.model(3)), small.prompt(3, 30)
    made = engine.decode(DecodeRequest(prompt=prompt, max_tokens=30)).token_ids
    found = engine.decode(TokenLogprobsRequest(prompt=prompt, tokens=made, top=1))
    assert [(best[0][0], best[0][1]) for best in found.top] == list(zip(made, found.logprobs, strict=True))


def test_rows_are_read_in_chunks_and_what_was_read_is_cached() -> None:
    engine = small.engine(small.model(2))
    prompt, tokens = small.prompt(1, 10), (1,) * (3 * ROWS + 1)
    first = engine.decode(TokenLogprobsRequest(prompt=prompt, tokens=tokens))
    assert first.stats.prefill_passes + first.stats.forward_passes == 5  # the prompt's head, then four chunks
    longer = DecodeRequest(prompt=(*prompt, *tokens, 2), max_tokens=1)
    assert engine.decode(longer).stats.cached_tokens == len(prompt) + len(tokens) - 1


def test_a_banned_token_has_no_probability() -> None:
    found = small.engine(small.model(1)).decode(TokenLogprobsRequest(prompt=(1,), tokens=(small.MASK, 2), top=1))
    assert found.logprobs[0] == -float("inf")
    assert found.logprobs[1] > -float("inf")


def test_ties_go_to_the_lower_id_and_nothing_impossible_is_listed() -> None:
    scores = torch.tensor([-1.0, -2.0, -1.0, -float("inf"), -2.0])
    assert [token for token, _ in likeliest(scores, 3)] == [0, 2, 1]
    assert [token for token, _ in likeliest(scores, 20)] == [0, 2, 1, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": ()}, "token_ids"),
        ({"top": 21}, "top=21"),
        ({"top": True}, "top=True"),
        ({"prompt": ()}, "prompt"),
        ({"tokens": (small.VOCAB,)}, "outside 0"),
        ({"tokens": (-1,)}, "outside 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(wrong: dict[str, tuple[int, ...] | int], message: str) -> None:
    engine = small.engine(small.model(1))
    with pytest.raises(RequestError, match=message):
        engine.decode(TokenLogprobsRequest(**{"prompt": (1,), "tokens": (2,), **wrong}))  # type: ignore[arg-type]
    with pytest.raises(PromptTooLong):
        engine.decode(TokenLogprobsRequest(prompt=(1,) * 4000, tokens=(2,) * 200))


def test_it_is_cancelled_as_others_are() -> None:
    engine = small.engine(small.model(1), keep_prefixes=False)
    request = TokenLogprobsRequest(prompt=(1,), tokens=(2,) * 4000)
    future = engine.submit(request)
    assert future.cancel()
    assert engine.decode(replace(request, tokens=(2,))).logprobs  # the cancelled one is gone when this one is served
    assert engine.pool.free == engine.pool.pages
    engine.close()
    with pytest.raises((RequestError, CallCancelled)):
        engine.decode(request)
