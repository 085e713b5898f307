"""Biases of logits: the naive twin's tokens in every mode, exact modes that agree, a grammar that stays in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import small
import torch
from automaton import Automaton, accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive
from torch import Tensor
from vendor import Vendor

from trimode.engine.errors import RequestError
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import BIASES, DecodeRequest, Sampling

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=40)
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
biases = st.dictionaries(
    st.integers(0, small.VOCAB - 1), st.sampled_from([-100.0, -100.0, -5.0, -0.5, 0.0, 2.0, 8.0, 100.0]), max_size=12
).map(lambda found: tuple(sorted(found.items())))
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.6, 1.7]),
    top_k=st.sampled_from([0, 0, 3]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 2**64 - 1),
    logit_bias=biases,
)


class Biased(Naive):
    """The twin: what is added to each row before its token is chosen."""

    def choose(self, logits: Tensor, position: int, allowed: object = None) -> int:
        return super().choose(added(logits, self.sampling), position, allowed)  # type: ignore[arg-type]


def added(logits: Tensor, sampling: Sampling) -> Tensor:
    row = logits.clone()
    for token, bias in sampling.logit_bias:
        row[token] += -1e5 if bias == -100 else bias
    return row


@given(seed=st.integers(0, 200), sampling=samplings, size=st.integers(1, 30), length=st.integers(2, 12))
@EXAMPLES
def test_exact_modes_take_the_tokens_of_the_biased_rows(seed: int, sampling: Sampling, size: int, length: int) -> None:
    model, prompt = small.model(seed, shared=2.0), small.prompt(seed, size)
    plain = Biased(model, prompt, sampling, 25, small.TEXT_VOCAB, (small.EOS,))
    plain.ar()
    engine = small.engine(model)
    for options in (ArOptions(), LinearSpecOptions(block_length=length), QuadraticSpecOptions(block_length=length)):
        request = DecodeRequest(prompt=prompt, options=options, sampling=sampling, max_tokens=25)
        assert list(engine.decode(request).token_ids) == plain.out


class BiasedVendor(Vendor):
    """The vendor's diffusion loop over biased rows."""

    def forward(
        self, context: Sequence[int], block: Sequence[int] = (), adapter: bool = False, causal: bool = False
    ) -> Tensor:
        rows = super().forward(context, block, adapter, causal)
        return torch.stack([added(row, self.sampling) for row in rows])


@given(
    seed=st.integers(0, 200), sampling=samplings, size=st.integers(1, 30), threshold=st.sampled_from([0.2, 0.6, 0.9])
)
@EXAMPLES
def test_diffusion_fills_from_the_biased_rows(seed: int, sampling: Sampling, size: int, threshold: float) -> None:
    model, prompt = small.model(seed, shared=2.0), small.prompt(seed, size)
    plain = BiasedVendor(model, prompt, sampling, 25, small.TEXT_VOCAB, (small.EOS,))
    plain.diffusion(8, threshold)
    options = DiffusionOptions(block_length=8, threshold=threshold, selection="vendor")
    request = DecodeRequest(prompt=prompt, options=options, sampling=sampling, max_tokens=25)
    assert list(small.engine(model).decode(request).token_ids) == plain.out


MODES: list[Options] = [
    ArOptions(),
    LinearSpecOptions(block_length=6),
    QuadraticSpecOptions(block_length=6),
    DiffusionOptions(block_length=6, threshold=0.4),
]


def automaton(seed: int) -> Automaton:
    return random_automaton(seed, small.VOCAB, USABLE, (small.EOS,))


@given(seed=st.integers(0, 1000), sampling=samplings, max_tokens=st.integers(1, 40))
@EXAMPLES
def test_a_grammar_stays_in_force(seed: int, sampling: Sampling, max_tokens: int) -> None:
    model = small.model(seed, shared=2.0)
    found = []
    for options in MODES:
        request = DecodeRequest(
            prompt=(1, 2), options=options, sampling=sampling, max_tokens=max_tokens, constraint=automaton(seed)
        )
        found.append(small.engine(model).decode(request).token_ids)
        assert accepts(automaton(seed), found[-1])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("options", MODES, ids=lambda options: options.mode)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 90.0])
def test_a_ban_holds_where_another_token_may_come_and_gives_way_where_none_may(
    options: Options, temperature: float
) -> None:
    engine, some = small.engine(small.model(5)), (7, 8, 9)
    everything = tuple((token, -100.0) for token in some)
    free = DecodeRequest(
        prompt=(1, 2),
        options=options,
        sampling=Sampling(temperature=temperature, logit_bias=everything, seed=4),
        max_tokens=40,
    )
    assert not set(engine.decode(free).token_ids) & set(some)
    moves = {state: dict.fromkeys(some, state + 1) for state in range(5)} | {5: dict[int, int]()}
    held = replace(free, constraint=Automaton(moves, frozenset({5}), (small.EOS,), small.VOCAB))
    assert accepts(Automaton(moves, frozenset({5}), (small.EOS,), small.VOCAB), engine.decode(held).token_ids)


def test_requests_beside_a_biased_one_are_not_biased() -> None:
    model = small.model(6)
    requests = [
        DecodeRequest(prompt=small.prompt(at, 9), options=options, max_tokens=20, sampling=Sampling(logit_bias=bias))
        for at, options in enumerate(MODES)
        for bias in ((), ((11, 100.0),))
    ]
    together = small.engine(model).decode_many(requests)
    alone = [small.engine(model).decode(request) for request in requests]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert {token for result in together[1::2] for token in result.token_ids} == {11}


@pytest.mark.parametrize(
    "bias", [((1, 101.0),), ((1, -100.5),), ((-1, 0.0),), ((1, float("nan")),), ((1, True),), ((1, 1.0), (1, 2.0))]
)
def test_biases_out_of_range_are_refused(bias: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(RequestError, match="logit_bias"):
        Sampling(logit_bias=bias)


def test_too_many_and_unknown_ids_are_refused() -> None:
    with pytest.raises(RequestError, match=f"at most {BIASES}"):
        Sampling(logit_bias=tuple((token, 1.0) for token in range(BIASES + 1)))
    with pytest.raises(RequestError, match="logit_bias holds ids outside"):
        small.engine(small.model(1)).decode(
            DecodeRequest(prompt=(1,), sampling=Sampling(logit_bias=((small.VOCAB, 1.0),)))
        )
