"""Counts that records add up and replay: calls of all modes and step kinds, verified, then decoded again.

    python scripts/check_audit.py EPISODES.jsonl.gz ... --calls 2000 --json OUT

Model steps of recorded episodes are decoded from their recorded history, `COMPANY` at a time, in a session that writes
an audit trail in several parts; mode, temperature, filters, schema, stop strings and thinking budget change from step
to step; every fifth call switches among the exact modes in mid-call, by chance. Gaps are filled and choices scored in
between, and the last tenth is decoded by weights in eight bits. The trail is verified, and second engines, with empty
prefix caches, replay every call alone. `measure_recording.py` says what recording costs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import Progress

import trimode as tm
from trimode.engine.errors import PromptTooLong, RequestError
from trimode.engine.options import (
    ArOptions,
    ExactOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    QuadraticSpecOptions,
    Switch,
)
from trimode.engine.result import Round
from trimode.integrations.bench.episodes import Episode, Step, read_episodes
from trimode.integrations.bench.evaluate import CONSTRAINED, Plan, call_of
from trimode.policy.audit.package_versions import versions
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, read_audit, records, verify
from trimode.policy.audit.trail_files import parts
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaError
from trimode.policy.replay.decode_again import Engines, replay
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import MODES, Settings

COMPANY = 8
GAP_EVERY = 40
SWITCHED = "switched"
EXACT: tuple[ExactOptions, ...] = (
    ArOptions(),
    LinearSpecOptions(block_length=8),
    QuadraticSpecOptions(block_length=6),
    LookupSpecOptions(),
)
CHOICES = ("yes", "no", "a table", "something else")
VARIANTS = (
    Settings(temperature=0.0),
    Settings(temperature=0.7, top_p=0.9),
    Settings(temperature=1.0, top_k=20, block_length=8),
    Settings(temperature=1.0, stop=("the", "\n\n")),
    Settings(temperature=0.3, max_thinking_tokens=6),
)


@dataclass(frozen=True, slots=True)
class Restless:
    """Hands over to another exact mode after every fourth round or so, and the same way for the same rounds."""

    seed: int

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None:
        dice = random.Random(f"{self.seed} {len(rounds)} {options}")
        return Switch(options=dice.choice(EXACT), reason="by chance") if dice.random() < 0.25 else None


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    path = Path(tempfile.mkdtemp()) / "audit.jsonl"
    engine, rounded = Engine.load(args.checkpoint), Engine.load(args.checkpoint, quantize="int8")
    calls = askable(engine, args)
    record(engine, path, calls, args.calls - args.calls // 10)
    record(rounded, path, calls, args.calls // 10)
    rounded.close()
    problems = [problem.message for problem in verify(path)]
    kept = records(read_audit(path))
    outcomes = replayed(Engines(args.checkpoint), kept)
    report = {
        "python": platform.python_version(),
        "versions": versions(),
        "threads": args.threads,
        "kernels": engine.kernels,
        "hardware": engine.runtime.hardware,
        "model_sha256": engine.checkpoint.model_sha256,
        "files": [file.name for file in args.files],
        "calls": len(kept),
        "output_tokens": sum(one.counts.output_tokens for one in kept if one.counts),
        "parts": len(parts(path)),
        "problems": len(problems),
        "replayed": dict(outcomes),
        "by_mode_and_kind": _table(kept),
    }
    print(json.dumps(report, indent=1))
    print(*problems[:10], sep="\n", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if not problems and outcomes["same"] == len(kept) >= args.calls else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=304)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def record(engine: Engine, path: Path, calls: Iterator[Call], count: int) -> None:
    """Decodes the next `count` calls in one session, a company at a time; gaps and choices come on top."""
    trail = AuditFile(path, content=True, rotate=4_000_000)
    with tm.session(engine, policy=tm.Policy(), trace=trail, agent="check"), Progress() as bar:
        task = bar.add_task("recording", total=count)
        for done in range(0, count, COMPANY):
            group = list(itertools.islice(calls, min(COMPANY, count - done)))
            asyncio.run(_together(engine, group))
            if done % GAP_EVERY < COMPANY:
                engine.infill("The table is ", " and made of wood.", max_tokens=5, seed=done, temperature=0.5)
                engine.choice(CHOICES, messages=group[0].messages)
            bar.update(task, completed=done + len(group))


async def _together(engine: Engine, group: list[Call]) -> None:
    await asyncio.gather(*(engine.arun(call) for call in group))


def askable(engine: Engine, args: argparse.Namespace) -> Iterator[Call]:
    """Calls for the steps that fit, each step in the next mode and variant in turn."""
    ways = itertools.cycle(itertools.product(VARIANTS, (*MODES, SWITCHED)))
    for episode, step in steps(args.files):
        variant, way = next(ways)
        mode = EXACT[step.index % len(EXACT)].mode if way == SWITCHED else way
        held = step.kind in CONSTRAINED and variant.stop is None
        settings = replace(variant, mode=mode, seed=step.index, max_tokens=args.max_tokens)
        plan = Plan(modes=(mode,), settings=settings, prompt_tokens=args.prompt_tokens)
        try:
            call = call_of(engine, episode, step, plan)
            context = StepContext(kind=call.kind, name=call.step)
            chosen = resolve(context, (), [("check_audit", settings)])
            chosen = replace(chosen, controller=Restless(step.index) if way == SWITCHED else None)
            call = replace(call, schema=call.schema if held else None, plan=chosen)
            engine.tokens.check(engine.translator.request(call))
        except (PromptTooLong, RequestError, SchemaError):
            continue
        yield call


def steps(files: list[Path]) -> Iterator[tuple[Episode, Step]]:
    """Model steps of all files, an episode of each in turn."""
    for group in itertools.zip_longest(*(read_episodes(path) for path in files)):
        for episode in group:
            if episode is not None:
                yield from ((episode, step) for step in episode.steps())


def replayed(engines: Engines, kept: list[CallRecord]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with Progress() as bar:
        for one in bar.track(kept, description="replaying"):
            found = replay(one, engines.of(one.runtime))
            outcomes[found.outcome] += 1
            if found.outcome != "same":
                print(found.call, found.message, file=sys.stderr)
    return outcomes


def _table(kept: list[CallRecord]) -> dict[str, int]:
    """Calls by mode, step kind, and what else was asked of them or came about in them."""
    count: Counter[str] = Counter()
    for one in kept:
        more = {
            "schema": one.schema_sha256 is not None,
            "thinking": one.thinking is not None,
            SWITCHED: any(made.switch for made in one.rounds),
            one.runtime.quantize: one.runtime.quantize != "no",
        }
        mode = "infill" if one.suffix_ids is not None else str(one.options["mode"])
        count[" ".join([mode, one.kind, *(word for word, holds in more.items() if holds)])] += 1
    return dict(sorted(count.items()))


if __name__ == "__main__":
    main()
