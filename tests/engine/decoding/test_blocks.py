"""One diffusion block under a gate: what is repaired, from which pass, and which guesses stand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from automaton import Automaton
from hypothesis import given
from hypothesis import strategies as st

from trimode.engine.constraint import Constraint
from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Logits
from trimode.engine.modes.diffusion import Block
from trimode.engine.request import Sampling, Selection
from trimode.kernels.reference import torch_ops

VOCAB, END = 8, 7
SAMPLER = Sampler(Sampling(), VOCAB, torch.zeros(VOCAB, dtype=torch.bool), torch_ops)
SURE, LIKELY, UNSURE = 9.0, 6.0, 1.0


def seen(*slots: Mapping[int, float]) -> Logits:
    """What one pass says of each slot: logits by token, 0 for the others."""
    rows = torch.zeros(len(slots), VOCAB)
    for at, slot in enumerate(slots):
        for token, logit in slot.items():
            rows[at, token] = logit
    return Logits(rows, 5, SAMPLER)


def line(*allowed: set[int]) -> Automaton:
    """A grammar of one set of tokens after the other, and the end behind."""
    moves = {at: dict.fromkeys(sorted(tokens), at + 1) for at, tokens in enumerate(allowed)}
    return Automaton({**moves, len(allowed): {}}, frozenset({len(allowed)}), (END,), VOCAB)


def block(
    constraint: Constraint | None, length: int, max_tokens: int = 20, selection: Selection = "text_first"
) -> Block:
    return Block(Gate(constraint, [END], mask_words=1, max_tokens=max_tokens), length, 0.9, selection)


ANY = set(range(VOCAB - 1))


def test_a_refused_guess_is_repaired_by_the_pass_that_made_it() -> None:
    """When the gate reaches it, the pass at hand saw the slot filled and says nothing of it."""
    made = block(line(ANY, {1, 2}, ANY, ANY), 4)
    made.denoise(seen({3: UNSURE}, {4: SURE, 2: LIKELY}, {}, {}))  # slot 1 is surest; slot 0 stays masked
    assert (made.tokens, made.slots) == ([], [None, 4, None, None])
    made.denoise(seen({3: SURE}, {1: SURE}, {}, {}))
    assert (made.tokens, made.origins) == ([3, 2], "ar")
    assert [(lost.token, lost.reason) for lost in made.rejected] == [(4, "schema")]


def test_what_was_guessed_in_sight_of_a_refused_token_falls_with_it_and_the_rest_stands() -> None:
    made = block(line(ANY, {1, 2}, ANY, ANY, ANY), 5)
    made.denoise(seen({}, {4: SURE, 2: LIKELY}, {5: SURE}, {}, {}))
    made.denoise(seen({}, {}, {}, {6: SURE}, {}))
    assert made.slots == [None, 4, 5, 6, None]
    made.denoise(seen({3: SURE}, {}, {}, {}, {}))
    assert (made.tokens, made.origins) == ([3, 2, 5], "ara")
    assert made.slots == [3, 2, 5, None, None]
    assert [lost.token for lost in made.rejected] == [4, 6]


@pytest.mark.parametrize(("allowed", "taken"), [({4, 1}, [4]), ({1, 2}, [2, 3])])
def test_the_gate_goes_on_over_masks_only_behind_a_refusal(allowed: set[int], taken: list[int]) -> None:
    """A block that needs no repair is the free one, so nothing may be taken in it that the free one leaves masked."""
    made = block(line(allowed, {3, 6}, ANY), 3)
    made.denoise(seen({4: SURE, 2: LIKELY}, {5: LIKELY, 3: LIKELY}, {}))
    assert made.tokens == taken


def test_a_slot_in_doubt_waits_for_the_next_pass() -> None:
    made = block(line(ANY, {1, 2}, ANY), 3)
    made.denoise(seen({}, {4: SURE, 2: UNSURE, 1: UNSURE}, {}))
    made.denoise(seen({3: SURE}, {}, {}))
    assert (made.tokens, made.slots) == ([3], [3, None, None])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6), st.integers(2, 6))
def test_a_block_that_was_valid_anyway_is_the_free_one(seeds: list[int], length: int) -> None:
    """Bit for bit, whatever the passes say, under a grammar that takes everything."""
    everything = Automaton({0: dict.fromkeys(range(VOCAB - 1), 0)}, frozenset({0}), (END,), VOCAB)
    held, free = block(everything, length, max_tokens=100), block(None, length)
    for seed in seeds:
        if free.done:
            break
        rows = torch.randn(length, VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
        for one in (held, free):
            one.denoise(Logits(rows, 5, SAMPLER))
        assert (held.slots, held.origins, held.fills) == (free.slots, free.origins, free.fills)
