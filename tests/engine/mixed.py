"""Requests of every kind in one batch: modes and switches of them, temperatures, filters, stop strings, constraints."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import small
from automaton import random_automaton

from trimode.engine.options import (
    ArOptions,
    DiffusionOptions,
    ExactOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    Options,
    QuadraticSpecOptions,
    Switch,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import Round

MODES: list[ExactOptions] = [
    ArOptions(),
    LinearSpecOptions(block_length=3),
    LinearSpecOptions(block_length=9),
    LinearSpecOptions(block_length=5, exact_first=True),
    QuadraticSpecOptions(block_length=5),
    QuadraticSpecOptions(block_length=8, rows=2),
    LookupSpecOptions(block_length=6),
]


@dataclass
class Fickle:
    """Switches at random round ends, sometimes to what runs already; the same rounds are answered the same way."""

    seed: int
    chance: float
    asked: list[int] = field(default_factory=list[int])
    switches: dict[int, Switch] = field(default_factory=dict[int, Switch])

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        self.asked.append(len(rounds))
        rng = random.Random(f"{self.seed} {len(rounds)} {options}")
        if rng.random() >= self.chance:
            return None
        self.switches[len(rounds)] = Switch(options=rng.choice(MODES), reason=f"after {len(rounds)}")
        return self.switches[len(rounds)]


def mixed_requests(seed: int, count: int) -> list[DecodeRequest]:
    kinds: list[Options] = [
        ArOptions(),
        DiffusionOptions(block_length=9, threshold=0.5),
        LinearSpecOptions(block_length=7),
        LinearSpecOptions(block_length=20),
        LinearSpecOptions(block_length=10, exact_first=True),
        QuadraticSpecOptions(block_length=6),
        QuadraticSpecOptions(block_length=9, rows=2),
        LookupSpecOptions(block_length=7),
        LookupSpecOptions(block_length=20, min_match=2),
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
