"""The thinking budget: the end marker comes in time, in every mode, and what follows is constrained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
from automaton import accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.engine.constraint import Thinking
from trimode.engine.decoding.gate import Gate
from trimode.engine.errors import RequestError
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling

QUICK = settings(deadline=None, derandomize=True, max_examples=60)
END = 11
MODES: list[Options] = [
    ArOptions(),
    LinearSpecOptions(block_length=7),
    QuadraticSpecOptions(block_length=6),
    DiffusionOptions(block_length=8, threshold=0.4),
]
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]


@given(
    seed=st.integers(0, 300),
    budget=st.integers(0, 20),
    more=st.integers(1, 25),
    temperature=st.sampled_from([0.0, 1.0]),
    constrained=st.booleans(),
)
@QUICK
def test_the_marker_comes_in_time(seed: int, budget: int, more: int, temperature: float, constrained: bool) -> None:
    engine = small.engine(small.model(seed, shared=2, rank=seed % 2 * 2))
    grammar = random_automaton(seed, small.VOCAB, USABLE, (small.EOS,)) if constrained else None
    exact = set()
    for options in MODES:
        request = DecodeRequest(
            prompt=small.prompt(seed, 8),
            options=options,
            sampling=Sampling(temperature=temperature, seed=seed),
            max_tokens=budget + more,
            constraint=grammar.fork() if grammar else None,
            thinking=Thinking(END, budget),
        )
        result = engine.decode(request)
        ids = result.token_ids
        if END in ids:
            assert ids.index(END) <= budget
            if grammar is not None:
                assert accepts(grammar, ids[ids.index(END) + 1 :])
        else:
            assert len(ids) <= budget
            assert ids[-1] == small.EOS
        if grammar is not None:
            assert small.EOS not in ids[: budget + 1] or END in ids[: ids.index(small.EOS)]
        if options.mode != "diffusion":
            exact.add(ids)
    assert len(exact) == 1


def test_a_spent_budget_forces_the_marker_without_a_vote() -> None:
    engine = small.engine(small.model(1, small.with_ends(small.MASK), shared=2))
    unlimited = DecodeRequest(prompt=(1, 2), max_tokens=20)
    limited = replace(unlimited, thinking=Thinking(END, 6))
    plain, forced = engine.decode(unlimited), engine.decode(limited)
    assert END not in plain.token_ids[:7]
    assert forced.token_ids[:6] == plain.token_ids[:6]
    assert forced.token_ids[6] == END
    assert forced.stats.forced == 1
    assert "f" in "".join(r.origins for r in forced.rounds)


def test_a_fork_thinks_for_itself() -> None:
    gate = Gate(None, (small.EOS,), Thinking(END, 3), mask_words=2)
    gate.advance([1, 2])
    twin = gate.fork()
    twin.advance([4])
    assert gate.mask() is None
    assert twin.take_forced(5) == [END]
    assert twin.mask() is None


@pytest.mark.parametrize("budget", [-1, 10, 11])
def test_a_budget_must_leave_tokens_for_an_answer(budget: int) -> None:
    with pytest.raises(RequestError, match=f"max_thinking_tokens={budget}: expected a whole number from 0 to below"):
        DecodeRequest(prompt=(1,), max_tokens=10, thinking=Thinking(END, budget))
