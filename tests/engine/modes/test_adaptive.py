"""Switching among exact modes in mid-call: any schedule gives the tokens of `ar`, and the rounds say what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pytest
import small
from automaton import random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import MODES, Fickle

from trimode.engine.constraint import Thinking
from trimode.engine.errors import ModeUnavailable, RequestError
from trimode.engine.options import (
    AdaptiveOptions,
    ArOptions,
    ExactOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    QuadraticSpecOptions,
    Switch,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import Round


def request(seed: int, temperature: float, size: int) -> DecodeRequest:
    """A third of them under a grammar, a third with thinking before it."""
    usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
    return DecodeRequest(
        prompt=small.prompt(seed, size),
        sampling=Sampling(temperature=temperature, seed=seed, top_k=seed % 3 * 5),
        max_tokens=40,
        constraint=random_automaton(seed, small.VOCAB, usable, (small.EOS,)) if seed % 3 else None,
        thinking=Thinking(end=7, budget=9) if seed % 3 == 2 else None,
    )


@given(
    seed=st.integers(0, 10_000),
    chance=st.sampled_from([0.2, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    first=st.sampled_from(MODES),
    size=st.sampled_from([1, 9, 300]),
)
@settings(deadline=None, derandomize=True, max_examples=80)
def test_any_schedule_gives_the_same_tokens(
    seed: int, chance: float, temperature: float, first: ExactOptions, size: int
) -> None:
    engine = small.engine(small.model(seed % 50, shared=4, sharpness=3, rank=seed % 2 * 2), keep_prefixes=False)
    plain = engine.decode(request(seed, temperature, size))
    fickle = Fickle(seed, chance)
    mixed = engine.decode(
        replace(request(seed, temperature, size), options=AdaptiveOptions(first=first, controller=fickle))
    )
    assert (mixed.token_ids, mixed.finish_reason) == (plain.token_ids, plain.finish_reason)
    assert sum(part.forward_passes for part in mixed.rounds) == mixed.stats.forward_passes
    assert mixed.rounds[0].switch == ""
    assert 0 not in fickle.asked
    assert len(mixed.rounds) not in fickle.asked, "nobody is left to switch to"
    for before, (count, part) in zip(mixed.rounds, enumerate(mixed.rounds[1:], start=1), strict=False):
        assert part.switch in ("", f"after {count}")
        assert part.switch or part.mode == before.mode
    recorded = {at: (part.mode, part.options) for at, part in enumerate(mixed.rounds) if part.switch}
    assert recorded == {at: (one.options.mode, asdict(one.options)) for at, one in fickle.switches.items()}
    assert all(part.options is None for part in mixed.rounds if not part.switch)


@pytest.mark.parametrize("seed", range(3))
def test_in_company_too(seed: int) -> None:
    def asked() -> list[DecodeRequest]:
        return [
            replace(
                request(seed + at, at % 2, 5 + at),
                options=AdaptiveOptions(first=MODES[at % len(MODES)], controller=Fickle(at, 0.5)),
            )
            for at in range(9)
        ]

    engine = small.engine(small.model(seed, shared=3))
    together = engine.decode_many(asked())
    alone = [small.engine(small.model(seed, shared=3)).decode(one) for one in asked()]
    assert [found.rounds for found in together] == [found.rounds for found in alone]
    assert any(part.switch for found in together for part in found.rounds)


@pytest.mark.parametrize("passes", range(2, 8))
def test_where_a_limit_of_passes_ends_the_call_its_last_switch_is_told(passes: int) -> None:
    def once(rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        drafts = LinearSpecOptions(block_length=5)
        return Switch(options=drafts, reason="once") if (options.mode, len(rounds)) == ("ar", 3) else None

    options = AdaptiveOptions(first=ArOptions(), controller=once)
    asked = replace(request(0, 0.0, 9), options=options, max_passes=passes)
    found = small.engine(small.model(0, shared=4)).decode(asked)
    assert [part.switch for part in found.rounds[3:4]] == ["once"] * (passes > 3)
    modes = [part.mode for part in found.rounds]
    assert modes == ["ar"] * min(len(modes), 3) + ["linear_spec"] * (len(modes) - 3)


def test_a_switch_needs_a_reason() -> None:
    with pytest.raises(RequestError, match="reason"):
        Switch(options=ArOptions(), reason="")


LLAMA = replace(small.CONFIG, architecture="LlamaForCausalLM", mask_token_id=None)


@dataclass(frozen=True)
class Turns:
    """Switches after every second round, to each of `modes` in turn."""

    modes: Sequence[ExactOptions]

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:  # noqa: ARG002
        turn, rest = divmod(len(rounds), 2)
        return None if rest else Switch(options=self.modes[turn % len(self.modes)], reason="its turn")


@pytest.mark.parametrize("seed", range(4))
def test_weights_that_only_decode_causally_switch_among_their_modes(seed: int) -> None:
    engine = small.engine(small.model(seed, LLAMA, shared=4))
    turns = Turns([LookupSpecOptions(), ArOptions(), LookupSpecOptions(block_length=4, min_match=2)])
    plain = DecodeRequest(prompt=small.prompt(seed, 40), max_tokens=40, sampling=Sampling(temperature=0.7, seed=seed))
    found = engine.decode(replace(plain, options=AdaptiveOptions(first=ArOptions(), controller=turns)))
    assert found.token_ids == engine.decode(plain).token_ids
    assert {part.mode for part in found.rounds} == {"ar", "lookup_spec"}


@pytest.mark.parametrize("other", [LinearSpecOptions(), QuadraticSpecOptions()], ids=lambda options: options.mode)
def test_a_mode_that_the_weights_lack_is_refused_first_and_at_a_switch(other: ExactOptions) -> None:
    engine = small.engine(small.model(0, LLAMA))
    for first, turns in ((other, [ArOptions()]), (ArOptions(), [LookupSpecOptions(), other])):
        options = AdaptiveOptions(first=first, controller=Turns(turns))
        with pytest.raises(ModeUnavailable, match=f"{other.mode}.*decode in ar, lookup_spec only"):
            engine.decode(DecodeRequest(prompt=(1, 2), options=options))
