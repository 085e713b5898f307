"""The token budget: if a completion fits at the start, every mode ends in time, and exact modes end alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
from automaton import Automaton, accepts, random_automaton
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimode.engine.constraint import Thinking
from trimode.engine.decoding.gate import Gate
from trimode.engine.options import (
    ArOptions,
    DiffusionOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    Options,
    QuadraticSpecOptions,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_mask import allows

MODES: list[Options] = [
    ArOptions(),
    LinearSpecOptions(block_length=7),
    QuadraticSpecOptions(block_length=6),
    QuadraticSpecOptions(block_length=9, rows=2),
    LookupSpecOptions(block_length=7),
    DiffusionOptions(block_length=8, threshold=0.4),
]
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
THINK = 11


def automaton(seed: int) -> Automaton:
    return random_automaton(seed, small.VOCAB, USABLE, (small.EOS,))


def least(rule: Automaton) -> int:
    """Returns the smallest budget in which `rule` can end."""
    completion = rule.completion(1000)
    assume(completion is not None)
    assert completion is not None
    return len(completion)


@given(
    seed=st.integers(0, 2000),
    more=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 1.5]),
    thinking=st.one_of(st.none(), st.integers(0, 5)),
)
@settings(deadline=None, derandomize=True, max_examples=120)
def test_every_mode_ends_in_time_and_exact_modes_alike(
    seed: int, more: int, temperature: float, thinking: int | None
) -> None:
    rule = automaton(seed)
    before = 0 if thinking is None else thinking + 1
    engine = small.engine(small.model(seed % 7, shared=2, rank=seed % 2 * 2))
    exact = set()
    for options in MODES:
        request = DecodeRequest(
            prompt=small.prompt(seed, 4),
            options=options,
            sampling=Sampling(temperature=temperature, seed=seed),
            max_tokens=before + least(rule) + more,
            constraint=rule.fork(),
            thinking=None if thinking is None else Thinking(THINK, thinking),
        )
        result = engine.decode(request)
        ids = result.token_ids
        assert result.finish_reason == "stop"
        assert ids[-1] == small.EOS
        assert accepts(rule, ids if thinking is None else ids[ids.index(THINK) + 1 :])
        assert result.forced_close == any("b" in round_.origins for round_ in result.rounds)
        if options.mode != "diffusion":
            exact.add((ids, result.forced_close))
    assert len(exact) == 1


def test_the_smallest_budget_leaves_no_choice() -> None:
    """The text may end after each of many tokens; with one token remaining, the end token comes."""
    letters = {token: 0 for token in USABLE if token != small.EOS}
    for budget in (1, 2, 5):
        rule = Automaton({0: letters, 1: {}}, frozenset({0}), (small.EOS,), small.VOCAB)
        result = small.engine(small.model(3)).decode(DecodeRequest(prompt=(1,), max_tokens=budget, constraint=rule))
        assert result.finish_reason == "stop"
        assert len(result.token_ids) <= budget


def test_a_choice_that_would_not_fit_is_replaced_and_is_marked() -> None:
    """Token 8 leads to the end in one step, any other in six."""
    long = {state: {10 + state: state + 1} for state in range(1, 6)}
    rule = Automaton({0: {8: 6, 9: 1, 12: 1}, **long, 6: {}}, frozenset({6}), (small.EOS,), small.VOCAB)
    engine = small.engine(small.model(5))
    unlimited = engine.decode(DecodeRequest(prompt=(1,), max_tokens=7, constraint=rule.fork()))
    tight = engine.decode(DecodeRequest(prompt=(1,), max_tokens=6, constraint=rule.fork()))
    assert unlimited.token_ids[0] in (9, 12)
    assert not unlimited.forced_close
    assert tight.token_ids == (8, small.EOS)
    assert tight.forced_close
    assert tight.rounds[0].origins == "b"


def test_without_a_known_completion_nothing_is_promised() -> None:
    endless = Automaton({0: {8: 0, 9: 0}}, frozenset(), (small.EOS,), small.VOCAB)
    result = small.engine(small.model(5)).decode(DecodeRequest(prompt=(1,), max_tokens=9, constraint=endless))
    assert result.finish_reason == "length"
    assert not result.forced_close


class Sure(Automaton):
    """Knows of each ending at once that it is there."""

    def leads(self, token: int, limit: int, /) -> bool:
        return self.completion_after(token, limit) is not None

    def fork(self) -> Sure:
        return Sure(self.moves, self.accepting, self.ends, self.vocab, self.state, list(self.seen))


class Unsure(Automaton):
    """Has to work out each ending."""

    def leads(self, _: int, __: int, /) -> bool:
        return False

    def fork(self) -> Unsure:
        return Unsure(self.moves, self.accepting, self.ends, self.vocab, self.state, list(self.seen))


@pytest.mark.parametrize("kind", [Sure, Unsure])
@pytest.mark.parametrize("seed", range(40))
def test_what_is_certain_without_a_search_is_only_a_matter_of_work(seed: int, kind: type[Automaton]) -> None:
    rule = automaton(seed)
    shortest = rule.completion(1000) or []
    other = kind(rule.moves, rule.accepting, rule.ends, rule.vocab)
    engine = small.engine(small.model(seed))
    request = DecodeRequest(
        prompt=(1, 2), sampling=Sampling(temperature=1.0, seed=seed), max_tokens=len(shortest) + seed % 8 or 9
    )
    results = [engine.decode(replace(request, constraint=law)) for law in (rule.fork(), other)]
    assert results[0].token_ids == results[1].token_ids
    assert results[0].forced_close == results[1].forced_close


@given(seed=st.integers(0, 2000), more=st.integers(0, 6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_forks_of_a_gate_decide_alike(seed: int, more: int) -> None:
    rule = automaton(seed)
    gate = Gate(rule, (small.EOS,), mask_words=-(-small.VOCAB // 32), max_tokens=least(rule) + more)
    for step in range(least(rule) + more):
        mask = gate.mask()
        assert mask is not None
        allowed = [token for token in USABLE if allows(mask, token)]
        choice = allowed[(seed + step) % len(allowed)] if allowed else small.EOS
        twin = gate.fork()
        if len(allowed) > 1:
            assert twin.resolve(choice) == gate.resolve(choice)
            choice = gate.resolve(choice)
        if choice == small.EOS or not allowed:
            return
        gate.advance([choice])


@given(seed=st.integers(0, 3000), temperature=st.sampled_from([0.0, 1.0]), threshold=st.sampled_from([0.2, 0.6, 0.9]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_constraint_that_the_free_text_keeps_changes_no_token(
    seed: int, temperature: float, threshold: float
) -> None:
    """Diffusion reads masks only after a refusal, so a valid output is the same bit for bit."""
    engine = small.engine(small.model(seed % 40, shared=2))
    request = DecodeRequest(
        prompt=small.prompt(seed, 4),
        options=DiffusionOptions(block_length=8, threshold=threshold),
        sampling=Sampling(temperature=temperature, seed=seed),
        max_tokens=24,
    )
    unlimited = engine.decode(request)
    text = unlimited.token_ids
    assume(small.EOS not in text)
    others = [next(other for other in (8, 9) if other != token) for token in text]  # nothing is forced
    moves = {at: dict.fromkeys(both, at + 1) for at, both in enumerate(zip(text, others, strict=True))}
    moves[len(text)] = dict.fromkeys((8, 9), len(text))
    endless = Automaton(moves, frozenset(), (small.EOS,), small.VOCAB)  # so that no budget interferes
    assert engine.decode(replace(request, constraint=endless)).token_ids == text
