"""`trimode bench`: our modes and peers on the same recorded steps, taking turns, for several rounds.

Knows episodes, contenders and who runs when. Does not know how a contender decodes (`contenders`, `peers`) or what is
counted (`bench_rows`). No measured call of ours finds a prefix of its prompt already read.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trimode.engine.errors import RequestError
from trimode.engine.models.export import export
from trimode.policy.calls import Engine
from trimode.policy.selection import Settings

from . import evaluate
from . import roofline as floor
from .contenders import Contender, Group, Question, cold, ours
from .episodes import MODEL_STEPS, Episode, Step, read_episodes
from .rows import Readings, Report, bounds, row


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one benchmark runs. `steps` of each kind; `settings`: knobs of our modes, and `max_tokens` of all."""

    modes: tuple[str, ...]
    peers: tuple[str, ...]
    steps: int
    rounds: int
    settings: Settings
    prompt_tokens: int


def bench(engine: Engine, files: Sequence[Path], registry: Path | None, plan: Plan, bar: Bar) -> Report:
    """Samples steps, measures the machine, warms every contender up, and runs all rounds."""
    asked, skipped = sample(engine, files, registry, plan)
    if not asked:
        raise RequestError(f"bench: no step of {', '.join(path.name for path in files)} can be asked ({skipped})")
    bar.begin(description="measuring the machine", total=1)
    machine = floor.measure(engine.tokens.model.config, engine.tokens.dtype, engine.tokens.runner.weight_bytes)
    with TemporaryDirectory(prefix="trimode-bench-") as folder:
        found, cache = contenders(engine, plan, asked[0], Path(folder))
        warm = [next(question for question in asked if question.kind == kind) for kind in kinds(asked)]
        bar.begin(description="warming up", total=len(warm))
        measure(found, warm, 1, bar.advance)
        bar.begin(description="measuring", total=len(asked) * plan.rounds)
        readings = measure(found, asked, plan.rounds, bar.advance)
    rows = [row(contender, kind, asked, readings) for kind in kinds(asked) for contender in found]
    about = {**describe(engine, plan), "files": [path.name for path in files], "hf_cache": cache}
    return Report(about, bounds(machine, readings), skipped, [row for row in rows if row is not None])


@dataclass(frozen=True, slots=True)
class Bar:
    """Where progress goes: `begin(description=, total=)` starts a part of so many steps, `advance` ends one step."""

    begin: Callable[..., object] = lambda **_: None
    advance: Callable[[], object] = lambda: None


def sample(
    engine: Engine, files: Sequence[Path], registry: Path | None, plan: Plan
) -> tuple[list[Question], dict[str, int]]:
    """Of each kind the first steps of a fixed shuffle that can be asked, the same in every run; why others cannot."""
    found: list[Question] = []
    skipped: dict[str, int] = {}
    steps = [
        (path, episode, step) for path in files for episode in read_episodes(path, registry) for step in episode.steps()
    ]
    asking = evaluate.Plan(modes=("ar",), settings=plan.settings, prompt_tokens=plan.prompt_tokens)
    for kind in MODEL_STEPS:
        pool = [item for item in steps if item[2].kind == kind]
        taken = 0
        for path, episode, step in Random(kind).sample(pool, len(pool)):
            if taken == plan.steps:
                break
            asked = _question(engine, path, episode, step, asking)
            if isinstance(asked, str):
                skipped[asked] = skipped.get(asked, 0) + 1
                continue
            found.append(asked)
            taken += 1
    return found, skipped


def _question(engine: Engine, path: Path, episode: Episode, step: Step, plan: evaluate.Plan) -> Question | str:
    call = evaluate.question(engine, episode, step, plan)
    if isinstance(call, str):
        return call
    source = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Question(source=source, kind=step.kind, prompt=tuple(engine.encode(call)), schema=call.schema)


def contenders(engine: Engine, plan: Plan, probe: Question, folder: Path) -> tuple[list[Contender], str | None]:
    """Peers, then our modes without schema and with it; and the cache kind that Hugging Face was faster with."""
    found: list[Contender] = []
    cache = None
    if plan.peers:
        from .peers import HuggingFace

        whole = engine.checkpoint.directory
        if not engine.checkpoint.is_gguf:
            whole = folder / "model"
            export(engine.checkpoint.directory, whole)
        peer = HuggingFace(whole, engine.tokens.dtype, plan.settings.max_tokens or 0, probe)
        found += [peer.contender(name) for name in plan.peers]
        cache = peer.cache
    alone = cold(engine)
    groups: tuple[Group, ...] = ("free", "schema")
    return found + [ours(alone, mode, plan.settings, group) for group in groups for mode in plan.modes], cache


def measure(
    found: Sequence[Contender], asked: Sequence[Question], rounds: int, advance: Callable[[], object]
) -> Readings:
    """Every contender on every question, interleaved; each round another one goes first."""
    readings: Readings = {contender.name: {} for contender in found}
    for number in range(rounds):
        turn = number % len(found)
        for at, question in enumerate(asked):
            for contender in (*found[turn:], *found[:turn]):
                if contender.takes(question):
                    readings[contender.name].setdefault(at, []).append(contender.run(question))
            advance()
    return readings


def describe(engine: Engine, plan: Plan) -> dict[str, Any]:
    """Machine class, versions, command and sample size: what a number needs beside it."""
    return {
        "cpu": floor.cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trimode")},
        "model": engine.checkpoint.name,
        "model_sha256": engine.checkpoint.model_sha256,
        "dtype": str(engine.tokens.dtype).removeprefix("torch."),
        "command": shlex.join(["trimode", *(Path(word).name or word for word in sys.argv[1:])]),  # files by name
        "steps_per_kind": plan.steps,
        "rounds": plan.rounds,
        "max_tokens": plan.settings.max_tokens,
    }


def kinds(asked: Sequence[Question]) -> list[str]:
    return [kind for kind in MODEL_STEPS if any(question.kind == kind for question in asked)]
