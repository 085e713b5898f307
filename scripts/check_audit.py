"""Counts that records add up and replay: calls of all modes and step kinds, verified, then decoded again.

    python scripts/check_audit.py EPISODES.jsonl.gz ... --calls 2000 --json OUT

Model steps of recorded episodes are decoded from their recorded history, `COMPANY` at a time, in a session that writes
an audit trail in several parts; mode, temperature, filters, schema, stop strings and thinking budget change from step
to step, and gaps are filled in between. The trail is verified, and a second engine, with an empty prefix cache, replays
every call alone. Recording is then measured in CPU time of its thread, apart from decoding.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import Progress

import trimode as tm
from trimode.engine.errors import PromptTooLong, RequestError
from trimode.integrations.cli.evaluate import HELD, Plan, call_of
from trimode.policy.audit import AuditFile, read_audit, records, verify
from trimode.policy.audit_parts import parts
from trimode.policy.call import Call
from trimode.policy.engine import Engine
from trimode.policy.episodes import Episode, Step, read_episodes
from trimode.policy.errors import SchemaError
from trimode.policy.record import CallRecord, versions
from trimode.policy.replay import replay
from trimode.policy.resolve import StepContext, resolve
from trimode.policy.result import Result
from trimode.policy.spec import MODES, Settings

COMPANY = 8
GAP_EVERY = 40
VARIANTS = (
    Settings(temperature=0.0),
    Settings(temperature=0.7, top_p=0.9),
    Settings(temperature=1.0, top_k=20, block_length=8),
    Settings(temperature=1.0, stop=("the", "\n\n")),
    Settings(temperature=0.3, max_thinking_tokens=6),
)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    path = Path(tempfile.mkdtemp()) / "audit.jsonl"
    engine = Engine.load(args.checkpoint)
    results = record(engine, path, args)
    problems = [problem.message for problem in verify(path)]
    kept = records(read_audit(path))
    outcomes = replayed(Engine.load(args.checkpoint), kept)
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
        "recording_ms": cost(engine, results, path.with_name("cost.jsonl")),
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


def record(engine: Engine, path: Path, args: argparse.Namespace) -> list[tuple[Call, Result]]:
    """Decodes `--calls` calls in one session, a company at a time."""
    done: list[tuple[Call, Result]] = []
    trail = AuditFile(path, content=True, rotate=4_000_000)
    calls = itertools.islice(askable(engine, args), args.calls)
    with tm.session(engine, policy=tm.Policy(), trace=trail, agent="check"), Progress() as bar:
        task = bar.add_task("recording", total=args.calls)
        while group := list(itertools.islice(calls, COMPANY)):
            done += zip(group, asyncio.run(_together(engine, group)), strict=True)
            if len(done) % GAP_EVERY < COMPANY:
                engine.infill("The table is ", " and made of wood.", max_tokens=5, seed=len(done), temperature=0.5)
            bar.update(task, completed=len(done))
    return done


async def _together(engine: Engine, group: list[Call]) -> list[Result]:
    return list(await asyncio.gather(*(engine.arun(call) for call in group)))


def askable(engine: Engine, args: argparse.Namespace) -> Iterator[Call]:
    """Calls for the steps that fit, each step in the next mode and variant in turn."""
    choices = itertools.cycle(itertools.product(VARIANTS, MODES))
    for episode, step in steps(args.files):
        variant, mode = next(choices)
        held = step.kind in HELD and variant.stop is None
        settings = replace(variant, mode=mode, seed=step.index, max_tokens=args.max_tokens)
        plan = Plan(modes=(mode,), settings=settings, prompt_tokens=args.prompt_tokens)
        try:
            call = call_of(engine, episode, step, plan)
            context = StepContext(kind=call.kind, name=call.step)
            call = replace(
                call,
                schema=call.schema if held else None,
                plan=resolve(context, (), [("check_audit", settings)]),
            )
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


def replayed(engine: Engine, kept: list[CallRecord]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with Progress() as bar:
        for one in bar.track(kept, description="replaying"):
            found = replay(one, engine)
            outcomes[found.outcome] += 1
            if found.outcome != "same":
                print(found.call, found.message, file=sys.stderr)
    return outcomes


def cost(engine: Engine, results: list[tuple[Call, Result]], path: Path) -> dict[str, Any]:
    """Milliseconds of CPU time that recording a call takes, content and all, over the calls just decoded."""
    spent: list[float] = []
    with tm.session(engine, policy=tm.Policy(), trace=AuditFile(path, content=True)):
        for call, result in results:
            request = engine.translator.request(call)
            begin = time.thread_time()
            with engine.recording(call) as recording:
                recording.request, recording.result = request, result.decoded
            spent.append((time.thread_time() - begin) * 1e3)
    spent.sort()
    return {
        "mean": round(sum(spent) / len(spent), 3),
        "median": round(median(spent), 3),
        "p95": round(spent[int(0.95 * len(spent))], 3),
        "bytes_a_call": path.stat().st_size // len(spent),
    }


def _table(kept: list[CallRecord]) -> dict[str, int]:
    """Calls by mode, step kind, and whether a schema or a thinking budget was set."""
    count: Counter[str] = Counter()
    for one in kept:
        mode = "infill" if one.suffix_ids is not None else str(one.options["mode"])
        count[f"{mode} {one.kind}{' schema' if one.schema_sha256 else ''}{' thinking' if one.thinking else ''}"] += 1
    return dict(sorted(count.items()))


if __name__ == "__main__":
    main()
