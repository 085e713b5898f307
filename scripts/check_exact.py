"""Counts two promises: exact modes give the same ids, alone and in company, and schemas hold in diffusion mode.

    python scripts/check_exact.py EPISODES.jsonl.gz ... --tokens 28000 --held 300 --json OUT

Every model step is decoded from its recorded history: at each temperature, with the step's schema and without, by each
exact mode with options that change from step to step, alone and then together: `COMPANY` calls at a time with four
exact modes, half as many with two. All ids are compared with those of `ar` alone. The episodes take turns, so that all
sources count; `--tokens` is for each mode in each arm. The arms take turns too, and `--json` is written after each
turn: what it says holds whenever the run is ended. `--skip` steps of each arm, to go on where another run ended.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from trimode.engine.errors import PromptTooLong
from trimode.integrations.bench.episodes import Episode, Step, read_episodes
from trimode.integrations.bench.evaluate import CONSTRAINED, Plan, call_of
from trimode.kernels.native.build import compiled
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import BudgetTooSmall, SchemaError
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import Settings, known_mode

MAX_TOKENS = 96
COMPANY = 16
VARIANTS: tuple[tuple[Settings, ...], ...] = (
    (
        Settings(mode="ar"),
        Settings(mode="linear_spec", block_length=8),
        Settings(mode="quadratic_spec", block_length=6),
        Settings(mode="lookup_spec", block_length=8, min_match=2),
    ),
    (
        Settings(mode="ar"),
        Settings(mode="linear_spec", block_length=32),
        Settings(mode="quadratic_spec", block_length=8, rows=2),
        Settings(mode="lookup_spec"),
    ),
)
"""Options of the modes; a step takes the next row in turn, without the modes that the weights lack."""

Ids = tuple[int, ...]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    engine = Engine.load(args.checkpoint, kernels=args.kernels)
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "kernels": engine.kernels,
        "native_build": compiled().stem if engine.kernels.startswith("native") else None,
        "checkpoint": engine.checkpoint.name,
        "model_sha256": engine.checkpoint.model_sha256,
        "files": [path.name for path in args.files],
        "skip": args.skip,
    }
    report: dict[str, Any] = {**about, **exact(engine, args, about)}
    report["diffusion"] = held(engine, args) if engine.weights.have("diffusion") else {"invalid": 0}
    print(write(args.json, report))
    sys.exit(1 if report["differ"] + report["diffusion"]["invalid"] else 0)


def write(out: Path | None, report: dict[str, Any]) -> str:
    """Writes `report` as JSON to `out`, in one step; returns the text."""
    text = json.dumps(report, indent=1)
    if out:
        part = out.with_suffix(".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(out)
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=28000, help="for each mode, alone and again in company")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0])
    parser.add_argument("--skip", type=int, default=0, help="steps of each arm that are left out at its beginning")
    parser.add_argument("--held", type=int, default=300, help="schema-bound steps for the diffusion mode")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def steps(files: list[Path]) -> Iterator[tuple[Episode, Step]]:
    """Model steps of all files, an episode of each in turn."""
    for group in itertools.zip_longest(*(read_episodes(path) for path in files)):
        for episode in group:
            if episode is not None:
                yield from ((episode, step) for step in episode.steps())


@dataclass(slots=True)
class Arm:
    """One temperature, with schemas or without, and what was counted in it.

    tokens: generated, by all modes, alone and in company; positions: of `ar` alone, each of which the others were
    compared with; compared: steps times modes times company.
    """

    temperature: float
    arm: str
    groups: Iterator[list[list[Call]]]
    tokens: int = 0
    positions: int = 0
    steps: int = 0
    compared: int = 0
    differ: int = 0

    def turn(self, engine: Engine) -> bool:
        """Decodes the next group; returns whether there was one."""
        group = next(self.groups, None)
        if group is None:
            return False
        alone = [[engine.run(call).token_ids for call in calls] for calls in group]
        together = asyncio.run(_together(engine, group))
        for mine, theirs in zip(alone, together, strict=True):
            self.steps += 1
            self.positions += len(mine[0])
            self.compared += len(mine) + len(theirs)
            self.tokens += sum(map(len, mine + theirs))
            self.differ += sum(ids != mine[0] for ids in mine + theirs)
        return True

    def row(self) -> dict[str, Any]:
        named = ("temperature", "arm", "tokens", "positions", "steps", "compared", "differ")
        return {name: getattr(self, name) for name in named}


def exact(engine: Engine, args: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """Decodes steps, the arms in turn, until each mode has `--tokens` alone; counts what differs from `ar` alone."""
    arms = [
        Arm(temperature, arm, _grouped(later(askable(engine, args.files, temperature, arm), args.skip)))
        for temperature, arm in itertools.product(args.temperatures, ("schema", "free"))
    ]
    want = args.tokens * 2 * len(variants(engine, 0))
    report = counted(arms)
    with Progress() as bar:
        task = bar.add_task("exact modes", total=want * len(arms))
        open_arms = list(arms)
        while open_arms:
            open_arms = [arm for arm in open_arms if arm.turn(engine) and arm.tokens < want]
            report = counted(arms)
            write(args.json, {**about, **report})
            bar.update(task, completed=report["tokens"])
    return report


def counted(arms: list[Arm]) -> dict[str, Any]:
    names = ("tokens", "positions", "differ")
    return {"exact": [arm.row() for arm in arms], **{name: sum(getattr(arm, name) for arm in arms) for name in names}}


async def _together(engine: Engine, group: list[list[Call]]) -> list[list[Ids]]:
    """The same calls, all at once."""
    results = iter(await asyncio.gather(*(engine.arun(call) for calls in group for call in calls)))
    return [[next(results).token_ids for _ in calls] for calls in group]


def _grouped(calls: Iterator[list[Call]]) -> Iterator[list[list[Call]]]:
    """About COMPANY calls at a time."""
    while group := list(itertools.islice(calls, COMPANY // len(VARIANTS[0]))):
        yield group


def later(calls: Iterator[list[Call]], skip: int) -> Iterator[list[Call]]:
    return itertools.islice(calls, skip, None)


def variants(engine: Engine, count: int) -> list[Settings]:
    return [
        one for one in VARIANTS[count % len(VARIANTS)] if engine.weights.have(known_mode(one.mode or "", "check_exact"))
    ]


def askable(engine: Engine, files: list[Path], temperature: float, arm: str) -> Iterator[list[Call]]:
    """For each step that fits the context and whose schema is not refused: its calls, one a mode."""
    count = 0
    for episode, step in steps(files):
        if arm == "schema" and step.kind not in CONSTRAINED:
            continue
        settings = Settings(temperature=temperature, seed=step.index, max_tokens=MAX_TOKENS)
        try:
            call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=608))
            call = call if arm == "schema" else replace(call, schema=None)
            engine.tokens.check(engine.translator.request(call))
        except (PromptTooLong, SchemaError):
            continue
        given = variants(engine, count)
        count += 1
        context = StepContext(kind=call.kind, name=call.step)
        layers = [[("check_exact", variant.over(settings))] for variant in given]
        yield [replace(call, plan=resolve(context, (), layer)) for layer in layers]


def held(engine: Engine, args: argparse.Namespace) -> dict[str, int]:
    """Schema-bound steps in diffusion mode: how many were valid, where the model ended or by force, or broke it."""
    count: Counter[str] = Counter()
    plan = Plan(modes=("diffusion",), settings=Settings(max_tokens=160), prompt_tokens=608)
    with Progress() as bar:
        task = bar.add_task("diffusion under schemas", total=args.held)
        for episode, step in steps(args.files):
            if step.kind not in CONSTRAINED:
                continue
            count[verdict(engine, episode, step, plan)] += 1
            bar.update(task, completed=count["valid"])
            if count["valid"] >= args.held:
                break
    return {name: count[name] for name in ("valid", "valid_by_force", "invalid", "not_asked")}


def verdict(engine: Engine, episode: Episode, step: Step, plan: Plan) -> str:
    try:
        call = call_of(engine, episode, step, plan)
        prompt = engine.encode(call)
    except SchemaError:
        return "not_asked"
    if len(prompt) + (plan.settings.max_tokens or 0) > engine.context:
        return "not_asked"
    try:
        return "valid_by_force" if engine.run(call).forced_close else "valid"
    except BudgetTooSmall:
        return "not_asked"
    except SchemaError:
        return "invalid"


if __name__ == "__main__":
    main()
