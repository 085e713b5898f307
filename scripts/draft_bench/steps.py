"""Recorded steps as calls, in a fixed shuffle, and a call in one mode.

Knows episodes and the public engine. Does not know what is counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from trimode.engine.errors import PromptTooLong
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaError
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import Settings, variant

KINDS = ("plan", "tool_call", "json", "prose")
MAX_TOKENS = 96
PROMPT_TOKENS = 608


def sample(engine: Engine, files: Sequence[Path], kind: str, steps: int, free: bool) -> list[Call]:
    """The first `steps` of a fixed shuffle over all files that can be asked."""
    return list(itertools.islice(askable(engine, files, kind, kind, free), steps))


def askable(engine: Engine, files: Sequence[Path], kind: str, shuffle: str, free: bool = False) -> Iterator[Call]:
    """Steps of one kind that can be asked, in the order of `shuffle`; `free`: without their schemas."""
    steps = [(e, s) for path in files for e in read_episodes(path) for s in e.steps() if s.kind == kind]
    count = 0
    for episode, step in Random(shuffle).sample(steps, len(steps)):
        try:
            settings = Settings(max_tokens=MAX_TOKENS, seed=count)
            call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=PROMPT_TOKENS))
            call = replace(call, schema=None) if free else call
            engine.tokens.check(engine.translator.request(call))
        except (PromptTooLong, SchemaError):
            continue
        count += 1
        yield call


def in_mode(call: Call, word: str, temperature: float) -> Call:
    """The call as the variant `word` decodes it, MODE[:BLOCK_LENGTH[:ROWS]]."""
    settings = variant(word, word).over(Settings(temperature=temperature)).over(call.plan.settings)
    return replace(call, plan=resolve(StepContext(kind=call.kind, name=call.step), (), [(word, settings)]))
