"""Throughput of one engine under several agent sessions at once, against one session alone.

    python scripts/measure_load.py EPISODES.jsonl.gz --sessions 1 8 --episodes 8 --rounds 5 --json OUT

A session walks through one episode: each model step is decoded after its recorded history, one step after the other,
through the public engine (template, grammar, span and all). Rounds alternate between the numbers of sessions; each
number decodes the same episodes. `cold`: prefixes are forgotten between runs, so prompts are read anew; `warm`: they
are all kept from an unmeasured run, so that little but decoding is left.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from trimode.integrations.cli.evaluate import Plan, call_of
from trimode.policy.call import Call
from trimode.policy.engine import Engine
from trimode.policy.episodes import read_episodes
from trimode.policy.resolve import StepContext, resolve
from trimode.policy.spec import Settings, variant


def main() -> None:
    args = arguments()
    engine = Engine.load()
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "kernels": engine.kernels,
        "model_sha256": engine.checkpoint.model_sha256,
        "file": args.file.name,
        "rows": [measure(engine, args, word, warm) for word in args.modes for warm in (False, True)],
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--modes", nargs="+", default=["ar", "linear_spec:8", "table"], help="table: the package's own")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(engine: Engine, args: argparse.Namespace, word: str, warm: bool) -> dict[str, Any]:
    """Median tokens per second by number of sessions, and each one's ratio to the first."""
    episodes = [
        [prepared(engine, episode, step, word) for step in episode.steps()]
        for episode in itertools.islice(read_episodes(args.file), args.episodes)
    ]
    speeds = {count: list[float]() for count in args.sessions}
    tokens = asyncio.run(run(engine, episodes, 1))
    for _ in track(range(args.rounds), word):
        for count in args.sessions:
            if not warm:
                engine.tokens.index.clear()
            begin = time.perf_counter()
            tokens = asyncio.run(run(engine, episodes, count))
            speeds[count].append(tokens / (time.perf_counter() - begin))
    medians = {count: statistics.median(found) for count, found in speeds.items()}
    base = medians[args.sessions[0]]
    return {
        "mode": word,
        "prefixes": "warm" if warm else "cold",
        "tokens": tokens,
        "rounds": args.rounds,
        "tokens_per_s": medians,
        "ratio": {count: median / base for count, median in medians.items()},
    }


def prepared(engine: Engine, episode: Any, step: Any, word: str) -> Call:
    settings = Settings(max_tokens=64)
    call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=608))
    said = settings if word == "table" else variant(word, word).over(settings)
    return Call(
        step=call.step,
        kind=call.kind,
        plan=resolve(StepContext(kind=call.kind, name=call.step), (), [(word, said)]),
        messages=call.messages,
        tools=call.tools,
        schema=call.schema,
    )


async def run(engine: Engine, episodes: list[list[Call]], sessions: int) -> int:
    """All episodes, `sessions` of them at a time; the number of tokens that came out."""
    queue = iter(episodes)

    async def session() -> int:
        tokens = 0
        for episode in queue:
            for call in episode:
                tokens += len((await engine.arun(call)).token_ids)
        return tokens

    return sum(await asyncio.gather(*(session() for _ in range(sessions))))


if __name__ == "__main__":
    main()
