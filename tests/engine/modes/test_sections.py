"""Outputs in sections: each section in its own mode, and the same tokens whichever exact modes those are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import small
from automaton import Automaton, accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import MODES, Fickle

from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError
from trimode.engine.options import AdaptiveOptions, ArOptions, DiffusionOptions, ModeOptions, SectionOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult, Section

KINDS = ("prose", "tool_call", "json")
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]


@dataclass
class Parted(Automaton):
    """An automaton whose states have kinds; text of kind prose may be cut where it may end."""

    kinds: Mapping[int, str] = field(default_factory=dict[int, str])
    number: int = 0

    @property
    def section(self) -> Section:
        return Section(self.number, self.kinds[self.state])

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            before = self.kinds[self.state]
            super().advance([token])
            self.number += self.kinds[self.state] != before

    def forced(self) -> list[int]:
        return super().forced()[:1]

    def fork(self) -> Parted:
        return replace(self, seen=list(self.seen))

    def completion(self, limit: int) -> list[int] | None:
        cuttable = self.kinds[self.state] == "prose" and self.state in self.accepting
        return [] if cuttable and not limit else super().completion(limit)


def parted(seed: int) -> Parted:
    """A random automaton in parts, in which states of one kind mostly stay among themselves."""
    plain, chance = random_automaton(seed, small.VOCAB, USABLE, (small.EOS,)), random.Random(seed)
    kinds = {state: KINDS[state * len(KINDS) // len(plain.moves)] for state in plain.moves}
    moves = {
        state: {
            token: then if kinds[then] == kinds[state] or chance.random() < 0.3 else state
            for token, then in after.items()
        }
        for state, after in plain.moves.items()
    }
    return Parted(moves, plain.accepting, plain.ends, plain.vocab, kinds=kinds)


def request(seed: int, temperature: float, size: int, thinking: bool) -> DecodeRequest:
    return DecodeRequest(
        prompt=small.prompt(seed, size),
        sampling=Sampling(temperature=temperature, seed=seed, top_k=seed % 3 * 5),
        max_tokens=60,
        constraint=parted(seed),
        thinking=Thinking(end=7, budget=9) if thinking else None,
    )


def sections(given: DecodeRequest, seed: int, *, one: ModeOptions | None = None) -> SectionOptions:
    """Options by kind: `one` for all, else at random, some of them switching at random within a section."""
    chance = random.Random(seed)
    assert isinstance(given.constraint, Parted)

    def options() -> ModeOptions:
        first = chance.choice(MODES)
        fickle = AdaptiveOptions(first=first, controller=Fickle(seed, 0.3))
        return one or (fickle if chance.random() < 0.3 else first)

    first = "thinking" if given.thinking else given.constraint.section.kind
    kinds = ("thinking", *KINDS)
    return SectionOptions(first=first, kinds={kind: options() for kind in kinds}, reasons=dict.fromkeys(kinds, "why"))


def walked(given: DecodeRequest, result: DecodeResult) -> list[Section]:
    """Returns the section of each output token, by feeding the tokens one by one to a fresh automaton."""
    at, found, offset = given.constraint, list[Section](), 0
    assert isinstance(at, Parted)
    thinking = given.thinking is not None
    for token in result.token_ids:
        found.append(Section(0, "thinking") if thinking else Section(at.section.number + offset, at.section.kind))
        if thinking:
            thinking = not (given.thinking is not None and token == given.thinking.end)
            offset = 1
        elif token != small.EOS:
            at.advance([token])
    return found


@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    size=st.sampled_from([1, 9, 300]),
    thinking=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=120)
def test_the_modes_of_sections_change_no_token(seed: int, temperature: float, size: int, thinking: bool) -> None:
    engine = small.engine(small.model(seed % 50, shared=4, sharpness=3, rank=seed % 2 * 2), keep_prefixes=False)

    def asked() -> DecodeRequest:
        return request(seed, temperature, size, thinking)

    plain = engine.decode(replace(asked(), options=ArOptions()))
    own = sections(asked(), seed)
    mixed = engine.decode(replace(asked(), options=own))
    assert (mixed.token_ids, mixed.finish_reason) == (plain.token_ids, plain.finish_reason)
    by_round = [part.section for part in mixed.rounds for _ in part.tokens]
    assert by_round == walked(asked(), mixed), "each round's tokens belong to its section"
    assert sum(part.forward_passes for part in mixed.rounds) == mixed.stats.forward_passes
    for _, rounds in groupby(mixed.rounds, key=lambda part: part.section):
        first = next(rounds)
        assert first.section is not None
        assert first.mode == own.of(first.section).mode
        if first.section.number:
            assert first.switch == f"{first.section.kind}: why"
    runs = {(run.section, run.mode) for run in mixed.stats.mode_runs}
    assert {kind for kind, _ in runs} <= {part.section.kind for part in mixed.rounds if part.section}


@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([0.0, 1.0]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_diffused_section_ends_where_the_gate_says(seed: int, temperature: float) -> None:
    engine = small.engine(small.model(seed % 50, shared=4, sharpness=3), keep_prefixes=False)
    given = request(seed, temperature, 9, thinking=False)
    own = sections(given, seed)
    own = replace(own, kinds={**own.kinds, "prose": DiffusionOptions(block_length=9, threshold=0.5)})
    mixed = engine.decode(replace(given, options=own))
    fresh = request(seed, temperature, 9, thinking=False)
    assert [part.section for part in mixed.rounds for _ in part.tokens] == walked(fresh, mixed)
    assert isinstance(fresh.constraint, Automaton)
    tokens = mixed.token_ids
    assert mixed.finish_reason == "length" or accepts(fresh.constraint, tokens)
    modes = {part.mode for part in mixed.rounds if part.section and part.section.kind == "prose"}
    assert modes <= {"diffusion"}
    assert "diffusion" not in {part.mode for part in mixed.rounds if part.section and part.section.kind != "prose"}


def test_in_company_too() -> None:
    def asked() -> list[DecodeRequest]:
        return [request(at, at % 2, 5 + at, thinking=at % 3 == 0) for at in range(8)]

    engine = small.engine(small.model(3, shared=4, sharpness=3), keep_prefixes=False)
    alone = [engine.decode(replace(one, options=sections(one, at))) for at, one in enumerate(asked())]
    futures = [engine.submit(replace(one, options=sections(one, at))) for at, one in enumerate(asked())]
    assert [future.result().token_ids for future in futures] == [one.token_ids for one in alone]


def test_text_that_may_be_cut_is_cut_by_a_limit_of_passes_and_other_text_is_not() -> None:
    engine, found = small.engine(small.model(1, shared=4, sharpness=3), keep_prefixes=False), 0
    for seed in range(30):
        given = request(seed, 0.0, 5, thinking=False)
        cut = engine.decode(replace(given, options=sections(given, seed), max_passes=3))
        at = parted(seed)
        at.advance([token for token in cut.token_ids if token != small.EOS])
        early = cut.finish_reason == "length" and len(cut.token_ids) < given.max_tokens
        assert not early or at.completion(0) == []
        found += early
    assert found


def test_a_section_without_options_is_an_error_of_its_call() -> None:
    engine = small.engine(small.model(1))
    asked = [request(seed, 1.3, 5, thinking=False) for seed in range(20)]
    lacking = [SectionOptions(first="prose", kinds={"prose": ArOptions()}, reasons={}) for _ in asked]
    futures = [engine.submit(replace(one, options=own)) for one, own in zip(asked, lacking, strict=True)]
    failed = [error for future in futures if (error := future.exception()) is not None]
    assert failed
    assert all(isinstance(error, RequestError) and "no options for a section of kind" in str(error) for error in failed)
