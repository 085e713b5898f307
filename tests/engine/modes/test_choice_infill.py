"""Scoring whole answers and filling gaps: against a naive forward over the written-out sequence."""

from __future__ import annotations

import math

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive

from trimode.engine.errors import PromptTooLong, RequestError
from trimode.engine.models.model import Transformer
from trimode.engine.options import InfillOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.scoring import ScoreRequest

QUICK = settings(deadline=None, derandomize=True, max_examples=25)
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
candidates = st.lists(st.lists(st.sampled_from(USABLE), min_size=1, max_size=9).map(tuple), min_size=1, max_size=6).map(
    tuple
)


def naive_logprob(model: Transformer, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Of `answer` and an end token, one whole forward."""
    plain = Naive(model, prompt, Sampling(), 1, small.TEXT_VOCAB, (small.EOS,))
    rows = plain.forward([*prompt, *answer])[len(prompt) - 1 :].double()
    banned = [token for token in range(small.VOCAB) if token not in USABLE]
    rows[:, banned] = -torch.inf
    chances = rows.log_softmax(-1)
    return sum(float(chances[at, token]) for at, token in enumerate((*answer, small.EOS)))


@given(seed=st.integers(0, 50), answers=candidates, size=st.integers(1, 90))
@QUICK
def test_candidates_score_what_a_whole_forward_gives(
    seed: int, answers: tuple[tuple[int, ...], ...], size: int
) -> None:
    model, prompt = small.model(seed, shared=0.5), small.prompt(seed, size)
    found = small.engine(model).decode(ScoreRequest(prompt=prompt, candidates=answers))
    for score, answer in zip(found.logprobs, answers, strict=True):
        assert score == pytest.approx(naive_logprob(model, prompt, answer), abs=1e-4)
    assert found.stats.forward_passes == 0
    assert found.stats.prefill_passes == 1


@given(seed=st.integers(0, 50), answers=candidates, size=st.integers(1, 300))
@QUICK
def test_a_candidate_scores_the_same_to_the_bit_alone(
    seed: int, answers: tuple[tuple[int, ...], ...], size: int
) -> None:
    model, prompt = small.model(seed, shared=0.5), small.prompt(seed, size)
    engine = small.engine(model)
    together = engine.decode(ScoreRequest(prompt=prompt, candidates=answers)).logprobs
    for score, answer in zip(together, answers, strict=True):
        assert engine.decode(ScoreRequest(prompt=prompt, candidates=(answer,))).logprobs == (score,)


def test_the_probabilities_of_all_short_answers_add_up() -> None:
    """Every one-token answer and what starts otherwise: with the end token counted, the scores are a distribution."""
    model = small.model(3, shared=0.5, sharpness=1.0)
    one = tuple((token,) for token in USABLE if token != small.EOS)
    scores = small.engine(model).decode(ScoreRequest(prompt=(1, 2), candidates=one)).logprobs
    plain = Naive(model, (1, 2), Sampling(), 1, small.TEXT_VOCAB, (small.EOS,))
    total = 0.0
    for (token,) in one:
        first = plain.forward([1, 2])[-1].double()
        second = plain.forward([1, 2, token])[-1].double()
        for row in (first, second):
            row[[t for t in range(small.VOCAB) if t not in USABLE]] = -torch.inf
        total += float(first.softmax(0)[token] * second.softmax(0)[small.EOS])
    assert sum(math.exp(score) for score in scores) == pytest.approx(total, abs=1e-6)


def test_many_candidates_take_several_passes_and_score_the_same() -> None:
    model, engine = small.model(4), small.engine(small.model(4))
    answers = tuple(tuple(USABLE[(at + n) % 30] for n in range(40)) for at in range(40))
    scores = engine.decode(ScoreRequest(prompt=(1, 2, 4), candidates=answers))
    assert scores.stats.prefill_passes + scores.stats.forward_passes == 4  # 1,600 rows, 480 a pass
    assert scores.logprobs[39] == pytest.approx(naive_logprob(model, (1, 2, 4), answers[39]), abs=1e-4)


@pytest.mark.parametrize("answers", [(), ((),), ((1,), ())])
def test_empty_candidates_are_refused(answers: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(RequestError, match="candidates"):
        ScoreRequest(prompt=(1,), candidates=answers)


def infill(
    model: Transformer, prompt: tuple[int, ...], suffix: tuple[int, ...], most: int, threshold: float
) -> list[int]:
    """The twin of `modes/infill.py`: no cache, no branches, one forward a length and a pass."""
    plain = Naive(model, prompt, Sampling(), most, small.TEXT_VOCAB, (small.EOS,))
    allowed = [token for token in USABLE if token != small.EOS]

    def read(slots: list[int | None]) -> dict[int, tuple[int, float]]:
        filled = [small.MASK if slot is None else slot for slot in slots]
        logits = plain.forward(prompt[:-1], [prompt[-1], *filled, *suffix])[len(prompt) :]
        found = {}
        for at, slot in enumerate(slots):
            if slot is None:
                token = plain.choose(logits[at], len(prompt) + at, allowed)
                among = torch.full_like(logits[at], -torch.inf)
                among[[*allowed, small.MASK, *range(small.TEXT_VOCAB, small.VOCAB)]] = logits[at][
                    [*allowed, small.MASK, *range(small.TEXT_VOCAB, small.VOCAB)]
                ]
                found[at] = (token, float(among.softmax(0)[token]))
        return found

    def mean(length: int) -> float:
        return sum(math.log(confidence) for _, confidence in read([None] * length).values()) / length

    slots: list[int | None] = [None] * max(range(1, most + 1), key=mean)
    while None in slots:
        found = read(slots)
        best = max(found, key=lambda at: found[at][1])
        for at, (token, confidence) in found.items():
            if at == best or confidence >= threshold:
                slots[at] = token
    return [slot for slot in slots if slot is not None]


@given(
    seed=st.integers(0, 200),
    size=st.integers(1, 80),
    suffix=st.lists(st.sampled_from(USABLE), min_size=1, max_size=8).map(tuple),
    most=st.integers(1, 9),
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
)
@QUICK
def test_a_gap_is_filled_as_the_naive_twin_fills_it(
    seed: int, size: int, suffix: tuple[int, ...], most: int, threshold: float
) -> None:
    model, prompt = small.model(seed, shared=0.5), small.prompt(seed, size)
    options = InfillOptions(suffix=suffix, threshold=threshold)
    result = small.engine(model).decode(DecodeRequest(prompt=prompt, options=options, max_tokens=most))
    assert list(result.token_ids) == infill(model, prompt, suffix, most, threshold)
    assert result.finish_reason == "stop"
    assert result.rounds[0].origins == "a" * len(result.token_ids)
    assert sum(result.rounds[0].fills) == len(result.token_ids)
    assert result.stats.forward_passes == len(result.rounds[0].fills) == result.rounds[0].forward_passes


def test_a_suffix_must_fit_the_context() -> None:
    engine = small.engine(small.model(1))
    options = InfillOptions(suffix=(1,) * 10)
    with pytest.raises(PromptTooLong):
        engine.decode(DecodeRequest(prompt=(1,) * 4080, options=options, max_tokens=7))
    engine.decode(DecodeRequest(prompt=(1,) * 4080, options=options, max_tokens=6))


def test_infill_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(RequestError, match="infill takes no schema"):
        DecodeRequest(prompt=(1,), options=InfillOptions(suffix=(1,)), stop=("a",))
