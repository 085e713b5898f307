"""Questions about one prompt: the figures of whole forwards, alone or together, from as few rows as branches allow."""

from __future__ import annotations

import math

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive

from trimode.engine.errors import RequestError
from trimode.engine.models.model import Transformer
from trimode.engine.modes.questions import END, distinguishable, longest, packs, paths
from trimode.engine.request import Sampling
from trimode.engine.scoring import QUESTIONS, Question, QuestionsRequest, ScoreRequest

QUICK = settings(deadline=None, derandomize=True, max_examples=25)
USABLE = [token for token in range(small.TEXT_VOCAB) if token not in (small.MASK, small.EOS)]
few = st.sampled_from(USABLE[:5])  # few tokens, so that candidates begin alike
ids = st.lists(few, min_size=1, max_size=4).map(tuple)
questions = st.lists(
    st.builds(
        Question,
        tokens=st.lists(few, min_size=1, max_size=9).map(tuple),
        candidates=st.lists(ids, min_size=2, max_size=7, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


def twin(model: Transformer, prompt: tuple[int, ...], question: Question) -> list[float]:
    """Each candidate by one whole forward; with an end token if one candidate begins another."""
    plain = Naive(model, prompt, Sampling(), 1, small.TEXT_VOCAB, (small.EOS,))
    known = (*prompt, *question.tokens)
    begins = any(a != b and b[: len(a)] == a for a in question.candidates for b in question.candidates)
    found = []
    for candidate in question.candidates:
        text = (*candidate, small.EOS) if begins else candidate
        rows = plain.forward([*known, *text])[len(known) - 1 :].double()
        rows[:, [small.MASK, *range(small.TEXT_VOCAB, small.VOCAB)]] = -torch.inf
        found.append(sum(float(row.log_softmax(0)[token]) for row, token in zip(rows, text, strict=False)))
    return found


@given(seed=st.integers(0, 50), size=st.integers(1, 300), asked=questions)
@QUICK
def test_candidates_score_what_whole_forwards_give(seed: int, size: int, asked: tuple[Question, ...]) -> None:
    model, prompt = small.model(seed, shared=0.5), small.prompt(seed, size)
    engine = small.engine(model)
    found = engine.decode(QuestionsRequest(prompt=prompt, questions=asked))
    for question, scores in zip(asked, found.logprobs, strict=True):
        assert scores == pytest.approx(twin(model, prompt, question), abs=1e-4)
        alone = engine.decode(QuestionsRequest(prompt=prompt, questions=(question,)))
        assert alone.logprobs == (scores,), "to the bit"


def test_with_an_end_the_figures_are_those_of_a_choice() -> None:
    engine, prompt, question = small.engine(small.model(4)), small.prompt(4, 20), (7, 8)
    candidates = ((1,), (1, 2), (4, 4, 4))
    asked = QuestionsRequest(prompt=prompt, questions=(Question(tokens=question, candidates=candidates),))
    scored = ScoreRequest(prompt=prompt + question, candidates=candidates)
    assert engine.decode(asked).logprobs[0] == pytest.approx(engine.decode(scored).logprobs, abs=1e-4)


def test_the_shares_of_distinguishable_candidates_add_up_to_at_most_one() -> None:
    engine = small.engine(small.model(3, shared=0.5, sharpness=1.0))
    every = tuple((token,) for token in (*USABLE, small.EOS))
    (scores,) = engine.decode(
        QuestionsRequest(prompt=(1,), questions=(Question(tokens=(2,), candidates=every),))
    ).logprobs
    assert sum(map(math.exp, scores)) == pytest.approx(1)


@given(candidates=st.lists(ids, min_size=2, max_size=12, unique=True))
@settings(derandomize=True, max_examples=200)
def test_no_candidate_begins_another_and_every_row_is_there_once(candidates: list[tuple[int, ...]]) -> None:
    wanted = distinguishable(candidates)
    assert not any(a != b and b[: len(a)] == a for a in wanted for b in wanted)
    assert [tuple(token for token in one if token != END) for one in wanted] == candidates
    beginnings = longest(one[:-1] for one in wanted)
    assert all(any(path[: len(one) - 1] == one[:-1] for path in beginnings) for one in wanted)
    assert not any(a != b and b[: len(a)] == a for a in beginnings for b in beginnings)


def test_candidates_of_one_token_need_no_rows_of_their_own() -> None:
    asked = [Question(tokens=(1,) * 10, candidates=tuple((token,) for token in USABLE[:20])) for _ in range(400)]
    found = paths(asked, [distinguishable(question.candidates) for question in asked])
    assert sum(path.rows for path in found) == 4000
    assert [sum(path.rows for path in pack) for pack in packs(found)] == [510] * 7 + [430]


def test_the_prompt_is_read_once() -> None:
    engine = small.engine(small.model(1), keep_prefixes=False)
    asked = tuple(Question(tokens=(at % 30 + 6, 1), candidates=((7,), (8,))) for at in range(QUESTIONS))
    stats = engine.decode(QuestionsRequest(prompt=small.prompt(1, 600), questions=asked)).stats
    assert stats.prefill_passes + stats.forward_passes == 4  # 256, 256 and 88 of the prompt with 512 rows, then 288


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": (), "candidates": ((1,), (2,))},
        {"tokens": (1,), "candidates": ((1,),)},
        {"tokens": (1,), "candidates": ((1,), (1,))},
        {"tokens": (1,), "candidates": ((1,), ())},
    ],
)
def test_what_is_no_question_is_refused(wrong: dict[str, tuple[()]]) -> None:
    with pytest.raises(RequestError, match="question"):
        Question(**wrong)


def test_the_number_of_questions_is_limited() -> None:
    one = Question(tokens=(1,), candidates=((1,), (2,)))
    for count in (0, QUESTIONS + 1):
        with pytest.raises(RequestError, match="expected 1 to 400"):
            QuestionsRequest(prompt=(1,), questions=(one,) * count)
    with pytest.raises(RequestError, match="outside 0"):
        small.engine(small.model(1)).decode(
            QuestionsRequest(prompt=(1,), questions=(Question(tokens=(small.VOCAB,), candidates=((1,), (2,))),))
        )
