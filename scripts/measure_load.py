"""Throughput of one engine under several agent sessions at once, against one session alone.

    python scripts/measure_load.py EPISODES.jsonl.gz --shape bundled 110m --sessions 1 8 --rounds 5 --json OUT

A session walks through one episode: each model step is decoded after its recorded history, one step after the other,
through the public engine (template, grammar, span and all). Rounds alternate between the numbers of sessions; each
number decodes the same episodes. `cold`: prefixes and rendered templates are forgotten between runs, so prompts are
read anew; `warm`: they are all kept from an unmeasured run, so that little but decoding is left. Towards the end of a
run fewer sessions than asked for have an episode left: many episodes a session keep that short.

`--shape`: the bundled checkpoint, or random weights of a larger model with the bundled tokenizer, bf16 numbers as a
checkpoint has them. What those write means nothing; what a token costs is what it would cost with trained weights.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.model import Transformer
from trimode.engine.token_engine import TokenEngine
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import Settings, variant

BUNDLED = "bundled"
SHAPES: dict[str, dict[str, Any]] = {
    "30m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9, "head_dim": 64},
    "110m": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 16, "head_dim": 64,
             "num_attention_heads": 12, "num_key_value_heads": 4},
}  # fmt: skip
"""Larger models of the bundled one's format, by their number of parameters."""
KV_BYTES = 1 << 32


def main() -> None:
    args = arguments()
    bundled = Engine.load()
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "kernels": bundled.kernels,
        "model_sha256": bundled.checkpoint.model_sha256,
        "file": args.file.name,
        "episodes": args.episodes,
        "rows": [],
    }
    for shape in args.shape:
        engine = bundled if shape == BUNDLED else random_engine(bundled, shape)
        about = {"shape": shape, "weight_bytes": engine.tokens.runner.weight_bytes}
        report["rows"] += [about | measure(engine, args, word, warm) for word in args.modes for warm in (False, True)]
        engine.close()
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def random_engine(bundled: Engine, shape: str) -> Engine:
    """Random weights of a larger shape behind the bundled tokenizer; the same in every run."""
    config = replace(bundled.tokens.model.config, **SHAPES[shape])
    torch.manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    tokenizer = bundled.tokenizer
    tokens = TokenEngine(model, tokenizer.decode, tokenizer.vocab_size, kv_bytes=KV_BYTES)
    return Engine(tokens, tokenizer, Checkpoint(bundled.checkpoint.directory, f"random-{shape}"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", nargs="+", default=[BUNDLED], choices=[BUNDLED, *SHAPES])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--modes", nargs="+", default=["ar", "linear_spec:8", "table"], help="table: the package's own")
    parser.add_argument("--episodes", type=int, default=24)
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
    loads = {count: list[float]() for count in args.sessions}
    tokens = asyncio.run(run(engine, episodes, 1))
    for _ in track(range(args.rounds), word):
        for count in args.sessions:
            if not warm:
                engine.tokens.index.clear()
                engine.tokenizer.rendered.cache_clear()
            begin, spent = time.perf_counter(), time.process_time()
            tokens = asyncio.run(run(engine, episodes, count))
            loads[count].append(1000 * (time.process_time() - spent) / tokens)
            speeds[count].append(tokens / (time.perf_counter() - begin))
    medians = {count: statistics.median(found) for count, found in speeds.items()}
    base = medians[args.sessions[0]]
    return {
        "mode": word,
        "prefixes": "warm" if warm else "cold",
        "tokens": tokens,
        "rounds": args.rounds,
        "tokens_per_s": medians,
        "cpu_ms_per_token": {count: statistics.median(found) for count, found in loads.items()},
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
