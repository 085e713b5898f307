"""Measures decoding on a GPU: the card, passes by mode, kernels one by one, and peers on the same weights.

    python scripts/bench_gpu.py --shape 8b --json docs/benchmarks/gpu-8b.json

Weights are random and of the published sizes. Copy bandwidth and the rate of products are measured first: each row has
the bytes that it has to move and how near it comes to the floor that follows (`fraction_of_roofline`). Medians of
interleaved rounds by CUDA events. Tokens/s are derived from passes at published acceptance and marked so. Imports
torch, triton, transformers, safetensors, tokenizers, numpy and trimode's engine and kernels, nothing else.

`--device cpu --shape tiny` tries the bench itself without a GPU: kernels interpreted, peers not compiled, wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHAPES = ("3b", "8b", "14b", "tiny")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    args = arguments()
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which is below
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device cuda: torch sees no CUDA device; --device cpu --shape tiny tries the bench")
    report: dict[str, Any] = {}
    for name, part in bench(args):
        report[name] = part
        if args.json:  # what is measured is kept, whatever comes of the rest
            args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--weights", nargs="+", choices=("bf16", "int8", "fp8"), default=["bf16", "int8", "fp8"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], help="of single kernels and of torch.compile")
    parser.add_argument("--tokens", type=int, default=64, help="of transformers' generate")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.device == "cpu" and args.shape != "tiny":
        parser.error(f"--device cpu --shape {args.shape}: without a GPU only --shape tiny is tried")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no directory {args.json.parent}")
    return args


def bench(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The parts of the report as they are measured: the card first, while its memory is empty."""
    import torch
    from gpu_bench import parts, passes, peers, shapes, timing

    from trimode.engine.forward.runner import Runner
    from trimode.kernels import ops

    device = torch.device(args.device)
    yield from about(args).items()
    clock = timing.Bench(device, torch.bfloat16, args.rounds, args.warm)
    card = timing.measured(clock)
    yield "card", {"bytes_per_s": card.bytes_per_s, "flop_per_s": card.flop_per_s}
    config = shapes.SHAPES[args.shape]
    yield "kernels", list(parts.measure(config, clock, card, args.rows, args.contexts))
    model = shapes.model(config, torch.bfloat16, device)
    ours, why = ops.kernels(device, torch.bfloat16, "triton")
    runners = {
        name: Runner(model, ours, why, next((known for known in ops.PRECISIONS if known == name), None), False)
        for name in args.weights
    }
    quadratic = [(min(length, args.block), min(points, args.block)) for length, points in passes.QUADRATIC]
    asked = passes.cases(args.contexts, args.batches, args.block, list(dict.fromkeys(quadratic)))
    rows = list(passes.measure(runners, asked, clock, card))
    yield "passes", rows
    yield "derived", list(passes.derived(rows))
    del runners
    others = () if args.no_peers else peers.measure(model, clock, card, args.contexts, args.rows, args.tokens)
    yield "peers", list(others)


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Device, versions, commit and settings: what a number needs beside it."""
    from importlib.metadata import version

    import torch

    cuda = args.device == "cuda"
    git, asked = shutil.which("git"), ("describe", "--always", "--dirty")
    commit = subprocess.run([git, *asked], cwd=ROOT, capture_output=True, text=True).stdout.strip() if git else ""
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu: a trial of the bench, its times say nothing",
        "clock": "CUDA events" if cuda else "wall",
        "compiled": cuda,
        "commit": commit or "not a checkout",
        "cuda": torch.version.cuda or "none",
        "versions": {name: version(name) for name in ("torch", "triton", "transformers")},
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
    }


if __name__ == "__main__":
    main()
