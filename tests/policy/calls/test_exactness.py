"""The first promise on the reference checkpoint: exact modes give the same tokens, whatever surrounds them.

50,000 generated tokens over the bundled episodes' steps, at three temperatures, under schemas and free, alone and in
company. scripts/check_exact.py counts a million.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from trimode.integrations.bench.evaluate import CONSTRAINED, Plan, call_of
from trimode.integrations.cli.demo import episodes
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import Settings, variant

TOKENS: Final = 50_000
SHARES: Final = 4
MODES: Final = (("ar", "linear_spec:8", "quadratic_spec:6"), ("ar", "linear_spec:16", "quadratic_spec:8:2"))


def calls(engine: Engine, temperature: float, schema: bool, seed: int) -> list[list[Call]]:
    """For each step of the episodes, the same call in each exact mode."""
    found = []
    steps = [(episode, step) for episode in episodes(10) for step in episode.steps()]
    for count, (episode, step) in enumerate(steps):
        if schema and step.kind not in CONSTRAINED:
            continue
        settings = Settings(temperature=temperature, seed=seed + count, max_tokens=64)
        call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=500))
        call = call if schema else replace(call, schema=None)
        context, modes = StepContext(kind=call.kind, name=call.step), MODES[count % len(MODES)]
        layers = [[(word, variant(word, word).over(settings))] for word in modes]
        found.append([replace(call, plan=resolve(context, (), layer)) for layer in layers])
    return found


async def together(engine: Engine, group: list[list[Call]]) -> list[list[tuple[int, ...]]]:
    results = iter(await asyncio.gather(*(engine.arun(call) for modes in group for call in modes)))
    return [[next(results).token_ids for _ in modes] for modes in group]


def groups(engine: Engine, share: int) -> Iterator[list[list[Call]]]:
    """Five steps at a time, without end: temperature 0 once, the others with ever new seeds."""
    for turn in itertools.count():
        for temperature, schema in itertools.product((0.7, 1.0) if turn else (0.0, 0.7, 1.0), (True, False)):
            every = calls(engine, temperature, schema, seed=1000 * (SHARES * turn + share))
            yield from (every[at : at + 5] for at in range(0, len(every), 5))


@pytest.mark.parametrize("share", range(SHARES))
def test_exact_modes_agree_over_50_000_tokens(reference: Engine, share: int) -> None:
    tokens = 0
    for group in groups(reference, share):
        alone = [reference.run(modes[0]).token_ids for modes in group]
        for expected, found in zip(alone, asyncio.run(together(reference, group)), strict=True):
            assert found == [expected] * len(found)
            tokens += len(expected) * (1 + len(found))
        if tokens >= TOKENS / SHARES:
            return
