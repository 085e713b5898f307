"""One diffusion block under a gate: what is repaired, from which pass, and which tentative tokens are kept."""

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
from trimode.engine.options import Selection
from trimode.engine.request import Sampling
from trimode.kernels.reference import torch_ops

VOCAB, END = 8, 7
SAMPLER = Sampler(Sampling(), VOCAB, torch.zeros(VOCAB, dtype=torch.bool), torch_ops)
SURE, LIKELY, UNSURE = 9.0, 6.0, 1.0


def seen(*slots: Mapping[int, float]) -> Logits:
    """Returns the logits of one pass: logits by token for each slot, 0 for other tokens."""
    rows = torch.zeros(len(slots), VOCAB)
    for at, slot in enumerate(slots):
        for token, logit in slot.items():
            rows[at, token] = logit
    return Logits(rows, 5, SAMPLER)


def line(*allowed: set[int]) -> Automaton:
    """Returns a grammar that allows one set of tokens after the other, then the end."""
    moves = {at: dict.fromkeys(sorted(tokens), at + 1) for at, tokens in enumerate(allowed)}
    return Automaton({**moves, len(allowed): {}}, frozenset({len(allowed)}), (END,), VOCAB)


def block(
    constraint: Constraint | None, length: int, max_tokens: int = 20, selection: Selection = "text_first"
) -> Block:
    return Block(Gate(constraint, [END], mask_words=1, max_tokens=max_tokens), length, 0.9, selection)


ANY = set(range(VOCAB - 1))


def test_a_refused_guess_is_repaired_by_the_pass_that_made_it() -> None:
    """When the gate reaches the slot, the current pass saw it filled and predicts nothing there."""
    made = block(line(ANY, {1, 2}, ANY, ANY), 4)
    made.denoise(seen({3: UNSURE}, {4: SURE, 2: LIKELY}, {}, {}))  # slot 1 is surest; slot 0 stays masked
    assert (made.tokens, made.slots) == ([], [None, 4, None, None])
    made.denoise(seen({3: SURE}, {1: SURE}, {}, {}))
    assert (made.tokens, made.origins) == ([3, 2], "ar")
    assert [(rejected.token, rejected.reason) for rejected in made.rejected] == [(4, "schema")]


def test_slots_filled_while_a_refused_token_was_visible_are_masked_again_and_others_kept() -> None:
    made = block(line(ANY, {1, 2}, ANY, ANY, ANY), 5)
    made.denoise(seen({}, {4: SURE, 2: LIKELY}, {5: SURE}, {}, {}))
    made.denoise(seen({}, {}, {}, {6: SURE}, {}))
    assert made.slots == [None, 4, 5, 6, None]
    made.denoise(seen({3: SURE}, {}, {}, {}, {}))
    assert (made.tokens, made.origins) == ([3, 2, 5], "ara")
    assert made.slots == [3, 2, 5, None, None]
    assert [rejected.token for rejected in made.rejected] == [4, 6]


@pytest.mark.parametrize(("allowed", "taken"), [({4, 1}, [4]), ({1, 2}, [2, 3])])
def test_the_gate_goes_on_over_masks_only_after_a_refusal(allowed: set[int], taken: list[int]) -> None:
    """A block that needs no repair equals the unconstrained one, so the gate takes nothing that stays masked there."""
    made = block(line(allowed, {3, 6}, ANY), 3)
    made.denoise(seen({4: SURE, 2: LIKELY}, {5: LIKELY, 3: LIKELY}, {}))
    assert made.tokens == taken


def test_a_slot_in_doubt_waits_for_the_next_pass() -> None:
    made = block(line(ANY, {1, 2}, ANY), 3)
    made.denoise(seen({}, {4: SURE, 2: UNSURE, 1: UNSURE}, {}))
    made.denoise(seen({3: SURE}, {}, {}))
    assert (made.tokens, made.slots) == ([3], [3, None, None])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6), st.integers(2, 6))
def test_a_block_that_was_valid_anyway_is_the_unconstrained_one(seeds: list[int], length: int) -> None:
    """Blocks are equal bit for bit, whatever the passes predict, under a grammar that allows everything."""
    everything = Automaton({0: dict.fromkeys(range(VOCAB - 1), 0)}, frozenset({0}), (END,), VOCAB)
    constrained, unconstrained = block(everything, length, max_tokens=100), block(None, length)
    for seed in seeds:
        if unconstrained.done:
            break
        rows = torch.randn(length, VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
        for one in (constrained, unconstrained):
            one.denoise(Logits(rows, 5, SAMPLER))
        assert (constrained.slots, constrained.origins, constrained.fills) == (
            unconstrained.slots,
            unconstrained.origins,
            unconstrained.fills,
        )
