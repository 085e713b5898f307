"""`trimode bench`: our modes and peers on the same recorded steps, taking turns, for several rounds.

Knows episodes, systems under test and the order in which they run. Does not know how a system decodes (`systems`,
`peers`) or what is counted (`rows`). No measured call of ours uses a cached prefix.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trimode.engine.errors import RequestError
from trimode.policy.calls import Engine
from trimode.policy.selection import Settings

from . import evaluate, peers, roofline
from .episodes import MODEL_STEPS, Episode, Step, read_episodes
from .peer_protocol import CannotRun
from .resident import resident_bytes
from .rows import BASE, Readings, Report, bounds, pass_seconds, row
from .systems import Group, Question, SystemUnderTest, cold, ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one benchmark runs: `steps` of each kind; `settings` with the options of our modes, and `max_tokens` for all
    systems."""

    modes: tuple[str, ...]
    peers: tuple[str, ...]
    steps: int
    rounds: int
    settings: Settings
    prompt_tokens: int


def bench(engine: Engine, files: Sequence[Path], registry: Path | None, plan: Plan, bar: Bar) -> Report:
    """Samples steps, measures the machine, warms up every system, and runs all rounds."""
    questions, skipped = sample(engine, files, registry, plan)
    if not questions:
        raise RequestError(f"bench: no step of {', '.join(path.name for path in files)} can be asked ({skipped})")
    bar.begin(description="measuring the machine", total=1)
    probe = partial(
        roofline.measure, engine.tokens.model.config, engine.tokens.dtype, engine.tokens.runner.weight_bytes
    )
    machine = probe()
    with TemporaryDirectory(prefix="trimode-bench-") as folder:
        others = peers.start(
            plan.peers, peers.Weights(engine, Path(folder)), plan.settings.max_tokens or 0, questions[0]
        )
        try:
            readings, refused = run(others, engine, plan, questions, bar)
        finally:
            others.close()
        size = own_memory(engine, others, questions[0], plan)
    found = contenders(others, engine, plan)
    machine, holds = roofline.possible(machine, pass_seconds(readings), probe)
    base = base_of(others)
    rows = [row(system, kind, questions, readings, base) for kind in kinds(questions) for system in found]
    about = {
        **describe(engine, plan),
        "files": [path.name for path in files],
        "hf_cache": others.cache,
        "base": base,
        "peers": others.about,
        "resident_bytes": size,
    }
    kept = [row for row in rows if row is not None]
    return Report(about, bounds(machine, readings, holds), skipped, kept, {**others.not_run, **refused})


def run(
    others: peers.Peers, engine: Engine, plan: Plan, questions: Sequence[Question], bar: Bar
) -> tuple[Readings, dict[str, str]]:
    """Warms up every system and measures it; returns the readings, and why a system ran no step, or some not."""
    found = contenders(others, engine, plan)
    warm = next((question for question in questions if question.schema is not None), questions[0])
    bar.begin(description="warming up", total=1)
    measure(found, [warm], 1, bar.advance)
    bar.begin(description="measuring", total=len(questions) * plan.rounds)
    return measure(found, questions, plan.rounds, bar.advance)


def own_memory(engine: Engine, others: peers.Peers, question: Question, plan: Plan) -> int | None:
    """Returns the memory of a process with our engine alone, where there is a peer to compare it with."""
    if not others.about:
        return None
    source, threads = engine.checkpoint.directory, torch.get_num_threads()
    return resident_bytes(source, question.prompt, plan.settings.max_tokens or 1, threads)


def contenders(others: peers.Peers, engine: Engine, plan: Plan) -> list[SystemUnderTest]:
    """Returns the peers, then our modes without and with schema."""
    alone = cold(engine)
    groups: tuple[Group, ...] = ("free", "schema")
    return others.systems + [ours(alone, mode, plan.settings, group) for group in groups for mode in plan.modes]


def base_of(others: peers.Peers) -> str:
    """Returns the system that ratios are to: Hugging Face's `generate`, or the first peer without it."""
    names = [system.name for system in others.systems]
    return BASE if BASE in names or not names else names[0]


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress display: `begin(description=, total=)` starts a part of `total` steps, `advance` ends one step."""

    begin: Callable[..., object] = lambda **_: None
    advance: Callable[[], object] = lambda: None


def sample(
    engine: Engine, files: Sequence[Path], registry: Path | None, plan: Plan
) -> tuple[list[Question], dict[str, int]]:
    """Returns for each kind the first usable steps of a fixed shuffle, the same in every run, and the number of
    unusable steps by reason."""
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
            question = _question(engine, path, episode, step, asking)
            if isinstance(question, str):
                skipped[question] = skipped.get(question, 0) + 1
                continue
            found.append(question)
            taken += 1
    return found, skipped


def _question(engine: Engine, path: Path, episode: Episode, step: Step, plan: evaluate.Plan) -> Question | str:
    call = evaluate.question(engine, episode, step, plan)
    if isinstance(call, str):
        return call
    source = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Question(source=source, kind=step.kind, prompt=tuple(engine.encode(call)), schema=call.schema)


def measure(
    found: Sequence[SystemUnderTest], questions: Sequence[Question], rounds: int, advance: Callable[[], object]
) -> tuple[Readings, dict[str, str]]:
    """Runs every system on every question, interleaved; each round starts with another system.

    A question that a system could not run once is none of its readings. Returns these, and the reasons by system.
    """
    readings: Readings = {system.name: {} for system in found}
    refused: dict[str, dict[int, str]] = {}
    for number in range(rounds):
        turn = number % len(found)
        for at, question in enumerate(questions):
            for system in (*found[turn:], *found[:turn]):
                if system.takes(question) and at not in refused.get(system.name, {}):
                    try:
                        readings[system.name].setdefault(at, []).append(system.run(question))
                    except CannotRun as error:
                        refused.setdefault(system.name, {})[at] = str(error)
                        readings[system.name].pop(at, None)
            advance()
    return readings, {name: _reasons(reasons) for name, reasons in refused.items()}


def _reasons(found: dict[int, str]) -> str:
    """Returns each reason once, with the number of questions that it kept from running."""
    counts = Counter(found.values())
    return "; ".join(f"{count} steps: {reason}" for reason, count in counts.most_common(3))


def describe(engine: Engine, plan: Plan) -> dict[str, Any]:
    """Returns machine class, versions, command and sample size, which every published number needs."""
    return {
        "cpu": roofline.cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trimode")},
        "model": engine.checkpoint.name,
        "model_sha256": engine.checkpoint.model_sha256,
        "dtype": str(engine.tokens.dtype).removeprefix("torch."),
        "command": shlex.join(["trimode", *(Path(part).name or part for part in sys.argv[1:])]),  # files by name
        "steps_per_kind": plan.steps,
        "rounds": plan.rounds,
        "max_tokens": plan.settings.max_tokens,
    }


def kinds(questions: Sequence[Question]) -> list[str]:
    return [kind for kind in MODEL_STEPS if any(question.kind == kind for question in questions)]
