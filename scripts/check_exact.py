"""Counts two promises: `ar` and `linear_spec` give the same ids, and schemas hold in diffusion mode.

    python scripts/check_exact.py EPISODES.jsonl.gz ... --tokens 20000 --held 300 --json OUT

Every model step is decoded from its recorded history, at each temperature, with the step's schema and without; the
episodes take turns, so that all sources count. A temperature is done when both of its arms have enough tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from trimode.engine.errors import PromptTooLong
from trimode.integrations.cli.evaluate import HELD, Plan, call_of
from trimode.policy.engine import Engine
from trimode.policy.episodes import Episode, Step, read_episodes
from trimode.policy.errors import SchemaError, SchemaViolation
from trimode.policy.spec import Settings

MAX_TOKENS = 96


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    engine = Engine.load(args.checkpoint)
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "model_sha256": engine.checkpoint.model_sha256,
        "files": [path.name for path in args.files],
        "exact": [exact(engine, args, temperature) for temperature in args.temperatures],
        "diffusion": held(engine, args),
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    broken = sum(row["steps_that_differ"] for row in report["exact"]) + report["diffusion"]["invalid"]
    sys.exit(1 if broken else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=20000, help="for each temperature, half of them under a schema")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0])
    parser.add_argument("--held", type=int, default=300, help="schema-bound steps for the diffusion mode")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def steps(files: list[Path]) -> Iterator[tuple[Episode, Step]]:
    """Model steps of all files, an episode of each in turn."""
    for group in itertools.zip_longest(*(read_episodes(path) for path in files)):
        for episode in group:
            if episode is not None:
                yield from ((episode, step) for step in episode.steps())


def exact(engine: Engine, args: argparse.Namespace, temperature: float) -> dict[str, object]:
    """Tokens of `ar` and the steps at which `linear_spec` differs, with schema and without."""
    tokens: Counter[str] = Counter()
    count: Counter[str] = Counter()
    want = args.tokens // 2
    with Progress() as bar:
        task = bar.add_task(f"T={temperature}", total=2 * want)
        for episode, step in steps(args.files):
            for arm in ("schema", "free") if step.kind in HELD else ("free",):
                if tokens[arm] < want:
                    a, b = (decode(engine, episode, step, mode, temperature, arm) for mode in ("ar", "linear_spec"))
                    tokens[arm] += len(a)
                    count["steps"] += bool(a or b)
                    count["differ"] += a != b
            bar.update(task, completed=sum(min(n, want) for n in tokens.values()))
            if min(tokens["schema"], tokens["free"]) >= want:
                break
    return {
        "temperature": temperature,
        "tokens_with_schema": tokens["schema"],
        "tokens_without": tokens["free"],
        "steps": count["steps"],
        "steps_that_differ": count["differ"],
    }


def decode(engine: Engine, episode: Episode, step: Step, mode: str, temperature: float, arm: str) -> tuple[int, ...]:
    """Output ids; none where the step cannot be asked (prompt too long, schema refused). Broken output raises."""
    settings = Settings(temperature=temperature, seed=step.index, max_tokens=MAX_TOKENS)
    plan = Plan(modes=(mode,), settings=settings, prompt_tokens=608)
    try:
        call = call_of(engine, episode, step, plan)
        return engine.run(call if arm == "schema" else replace(call, schema=None)).token_ids
    except SchemaViolation:
        raise
    except (PromptTooLong, SchemaError):
        return ()


def held(engine: Engine, args: argparse.Namespace) -> dict[str, int]:
    """Schema-bound steps in diffusion mode: how many finished valid, were cut by max_tokens, or broke their schema."""
    count: Counter[str] = Counter()
    plan = Plan(modes=("diffusion",), settings=Settings(max_tokens=160), prompt_tokens=608)
    with Progress() as bar:
        task = bar.add_task("diffusion under schemas", total=args.held)
        for episode, step in steps(args.files):
            if step.kind not in HELD:
                continue
            count[verdict(engine, episode, step, plan)] += 1
            bar.update(task, completed=count["valid"])
            if count["valid"] >= args.held:
                break
    return {name: count[name] for name in ("valid", "cut", "invalid", "not_asked")}


def verdict(engine: Engine, episode: Episode, step: Step, plan: Plan) -> str:
    try:
        call = call_of(engine, episode, step, plan)
        prompt = engine.encode(call)
    except SchemaError:
        return "not_asked"
    if len(prompt) + (plan.settings.max_tokens or 0) > engine.context:
        return "not_asked"
    try:
        return "valid" if engine.run(call).valid else "cut"
    except SchemaError:
        return "invalid"


if __name__ == "__main__":
    main()
