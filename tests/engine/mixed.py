"""Requests of every kind side by side: modes, temperatures, filters, stop strings and constraints."""

from __future__ import annotations

import small
from automaton import random_automaton

from trimode.engine.request import (
    ArOptions,
    DecodeRequest,
    DiffusionOptions,
    LinearSpecOptions,
    Options,
    QuadraticSpecOptions,
    Sampling,
)


def mixed_requests(seed: int, count: int) -> list[DecodeRequest]:
    kinds: list[Options] = [
        ArOptions(),
        DiffusionOptions(block_length=9, threshold=0.5),
        LinearSpecOptions(block_length=7),
        LinearSpecOptions(block_length=20),
        QuadraticSpecOptions(block_length=6),
        QuadraticSpecOptions(block_length=9, rows=2),
    ]
    usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
    return [
        DecodeRequest(
            prompt=small.prompt(seed + index, 1 + 13 * index % 70),
            options=kinds[(seed + index) % len(kinds)],
            sampling=Sampling(temperature=(0.0, 1.0)[index % 2], seed=index, top_k=index % 3 * 4),
            max_tokens=5 + 9 * index % 40,
            stop=("abab",) if index % 4 == 3 else (),
            constraint=random_automaton(index, small.VOCAB, usable, (small.EOS,)) if index % 3 == 2 else None,
        )
        for index in range(count)
    ]
