"""Training text that the base writes itself, because drafts have to meet what the base says.

Knows an engine and recorded texts. Does not know training. Each step that the model has to write is answered once,
greedily, from the recorded conversation before it, under its schema if it has one; of a plain text, its beginning is
continued. Texts are written one a line as they are finished, so a killed run goes on after the last one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from trimode.policy.calls import Engine, Result
from trimode.policy.errors import SchemaViolation
from trimode.policy.selection import Settings

from ...bench import evaluate
from ...bench.episodes import Episode
from .rendering import Renderer
from .samples import Answer, Sample, runs
from .texts import Text, as_record

TOGETHER: Final = 16
"""Texts that are answered at the same time, in one batch."""
_BEGINNING: Final = 64
"""Tokens of a plain text that the base continues."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes answers of at most `max_tokens` tokens."""

    engine: Engine
    renderer: Renderer
    max_tokens: int

    async def answered(self, text: Text) -> list[Sample]:
        """Returns the samples of a text with the base's own answers."""
        if isinstance(text, Episode) and len(text.messages) > 1:
            return [await self._conversation(text)]
        return [await self._continued(sample) for sample in self.renderer.samples(text)]

    async def _conversation(self, talk: Episode) -> Sample:
        """Answers step after step, so that each prompt finds the one before it in the prefix cache."""
        sample = self.renderer.conversation(talk)
        settings = Settings(temperature=0.0, seed=0, max_tokens=self.max_tokens)
        plan = evaluate.Plan(modes=("ar",), settings=settings, prompt_tokens=len(sample.ids))
        answers = list[Answer]()
        for step in talk.steps():
            call = evaluate.question(self.engine, talk, step, plan) if step.history else "nothing before it"
            if isinstance(call, str):
                continue
            try:
                result = await self.engine.arun(call)
            except SchemaViolation:
                continue
            prompt = np.asarray(result.prompt_ids, np.int32)
            if np.array_equal(sample.ids[: len(prompt)], prompt):
                answers.append(_answer(result))
        return replace(sample, answers=tuple(answers))

    async def _continued(self, sample: Sample) -> Sample:
        beginning = sample.ids[: min(_BEGINNING, len(sample.ids) // 2)].tolist()
        result = await self.engine.agenerate(
            prompt_ids=beginning, mode="ar", temperature=0.0, seed=0, max_tokens=self.max_tokens
        )
        return replace(sample, answers=(_answer(result),))


def _answer(result: Result[Any]) -> Answer:
    origins = "".join(round_.origins for round_ in result.trace)
    forced = np.asarray([origin in "fb" for origin in origins], np.bool_)
    return Answer(len(result.prompt_ids), np.asarray(result.token_ids, np.int32), forced)


def write_own_text(writer: Writer, texts: Sequence[Text], out: Path, advance: Callable[[], object]) -> None:
    """Appends the answered texts to `out` that are not in it yet, in any order."""
    done = finished(out)
    with out.open("a", encoding="utf-8") as file:

        async def one(at: int, gate: asyncio.Semaphore) -> None:
            async with gate:
                for sample in await writer.answered(texts[at]):
                    record = {"text_number": at, **as_record(sample, runs(sample.own))}
                    file.write(json.dumps(record, separators=(",", ":")) + "\n")
                file.flush()
                advance()

        async def all_of_them() -> None:
            gate = asyncio.Semaphore(TOGETHER)
            await asyncio.gather(*(one(at, gate) for at in range(len(texts)) if at not in done))

        asyncio.run(all_of_them())


def finished(out: Path) -> set[int]:
    """Returns the numbers of the texts in `out`; cuts off a last line that was not finished."""
    if not out.is_file():
        return set()
    whole = out.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        out.write_bytes(kept)
    return {json.loads(line)["text_number"] for line in kept.splitlines()}
