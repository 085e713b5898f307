"""Token agreement of rounded arithmetic and of weights in eight bits with fp32, on recorded tool calls.

    python scripts/measure_rounding.py EPISODES.jsonl.gz ... --json docs/benchmarks/rounding.json

fp32 on whole weights decodes each prompt (`ar`, temperature 0, no schema). Every way of rounding then reads the texts:
`agree` counts the tokens that it would have chosen too, given the same text before them; `same_outputs` the prompts
where that holds to the end, so that it decodes the same output. Counts only, so the machine does not matter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from trimode.engine.decoding.segment import Segment
from trimode.engine.errors import RequestError
from trimode.engine.forward.batch import Batch
from trimode.engine.kv_cache.pages import pages_for
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, call_of
from trimode.integrations.cli.demo import episodes
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.settings import Settings

WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bf16", {"dtype": "bfloat16"}),
    ("rows of products in bf16", {"kernels": "native-bf16"}),
    ("rows of products in int8", {"kernels": "native-int8"}),
    ("int8, head and rows too", {"kernels": "native-int8", "quantize": "int8", "quantize_head": True}),
    ("int8", {"quantize": "int8"}),
    ("int8, head too", {"quantize": "int8", "quantize_head": True}),
    ("fp8", {"quantize": "fp8"}),
    ("fp8, head too", {"quantize": "fp8", "quantize_head": True}),
)
Text = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and output ids."""


def main() -> None:
    args = arguments()
    whole = Engine.load(args.checkpoint, kernels="torch")
    texts = decoded(whole, args.files, args.steps)
    report = {
        "files": [path.name for path in args.files] or "the bundled episodes",
        "model_sha256": whole.checkpoint.model_sha256,
        "compared_with": "float32, whole weights",
        "prompts": len(texts),
        "tokens": sum(len(output) for _, output in texts),
        "weight_bytes": whole.tokens.runner.weight_bytes,
        "rows": [row(name, args.checkpoint, words, texts) for name, words in WAYS],
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="the bundled episodes if not given")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def decoded(engine: Engine, files: Sequence[Path], steps: int) -> list[Text]:
    """The first tool calls of all files together, with what `engine` answers."""
    plan = Plan(modes=("ar",), settings=Settings(mode="ar", max_tokens=64), prompt_tokens=608)
    every = chain.from_iterable(map(read_episodes, files)) if files else episodes(steps)
    calls = ((episode, step) for episode in every for step in episode.steps() if step.kind == "tool_call")
    found = []
    for episode, step in islice(calls, steps):
        call = replace(call_of(engine, episode, step, plan), schema=None)
        found.append((tuple(engine.encode(call)), engine.run(call).token_ids))
    return found


def row(name: str, checkpoint: str | None, words: dict[str, Any], texts: Sequence[Text]) -> dict[str, Any]:
    options: dict[str, Any] = {"kernels": "torch", **words}
    try:
        engine = Engine.load(checkpoint, **options)
    except RequestError as error:
        return {"weights": name, "refused": str(error)}
    matches = [agreeing(engine, *text) for text in texts]
    engine.close()
    return {
        "weights": name,
        "agree": sum(map(sum, matches)),
        "same_outputs": sum(map(all, matches)),
        "weight_bytes": engine.tokens.runner.weight_bytes,
    }


def agreeing(engine: Engine, prompt: tuple[int, ...], output: tuple[int, ...]) -> list[bool]:
    """For each token of `output`, whether the engine would have chosen it there."""
    tokens, pool = engine.tokens, engine.tokens.pool
    table = pool.take(pages_for(len(prompt) + len(output)))
    segment = Segment(start=0, trunk=(*prompt, *output[:-1]), read=len(output))
    ((logits, _),) = Batch([segment], [table]).forward(tokens.runner, pool)
    pool.drop(table)
    best = logits.float().masked_fill(tokens.banned, float("-inf")).argmax(-1)
    return (best == torch.tensor(output, device=best.device)).tolist()


if __name__ == "__main__":
    main()
