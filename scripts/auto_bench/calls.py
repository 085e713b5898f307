"""Recorded steps as calls, and how each contender decodes them."""

from __future__ import annotations

import asyncio
import itertools
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trimode.engine.errors import PromptTooLong
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.result import Result
from trimode.policy.errors import SchemaError
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.policies import Policy, StepContext, resolve
from trimode.policy.selection.settings import Settings, variant


def calls_of(engine: Engine, path: Path, args: Namespace) -> list[Call]:
    """The first steps of a file that can be asked, in its own order."""
    return list(itertools.islice(_askable(engine, path, args), args.steps))


def _askable(engine: Engine, path: Path, args: Namespace) -> Iterator[Call]:
    settings = Settings(temperature=args.temperature, max_tokens=args.max_tokens)
    for episode in read_episodes(path):
        for step in episode.steps():
            try:
                call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=608))
                engine.tokens.check(engine.translator.request(call))
            except (PromptTooLong, SchemaError):
                continue
            yield call


def planned(call: Call, word: str, auto: Auto, others: int) -> Call:
    """The call as a contender decodes it."""
    digest = None if call.schema is None else call.schema.sha256
    context = StepContext(kind=call.kind, name=call.step, schema_sha256=digest, others=others)
    said = Settings(temperature=call.plan.settings.temperature, max_tokens=call.plan.settings.max_tokens)
    if word == "auto":
        return replace(call, plan=resolve(context, (auto,), [("measured", said)]))
    return replace(call, plan=resolve(context, (), [(word, variant(word, word).over(said))]))


async def together(engine: Engine, calls: Sequence[Call], word: str, auto: Auto) -> list[Result]:
    """All calls live at once; each is planned as it begins, when the others are known."""

    async def one(call: Call, others: int) -> Result:
        return await engine.arun(planned(call, word, auto, others))

    return list(await asyncio.gather(*(one(call, len(calls) - 1) for call in calls)))


async def repeated(engine: Engine, calls: Sequence[Call], results: Sequence[Result]) -> list[Result]:
    """The same calls once more under the plans that they had. Nobody learns of it."""
    plans = (replace(result.plan, policy=Policy()) for result in results)
    again = (engine.arun(replace(call, plan=plan)) for call, plan in zip(calls, plans, strict=True))
    return list(await asyncio.gather(*again))


def words_of(result: Result) -> str:
    settings = result.plan.settings
    knobs = [settings.block_length, settings.rows if result.plan.mode == "quadratic_spec" else None]
    knobs = [] if result.plan.mode == "ar" else [knob for knob in knobs if knob is not None]
    return ":".join([result.plan.mode, *map(str, knobs)])
