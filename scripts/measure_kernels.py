"""Milliseconds of one forward pass by kernels and rows: what row-invariant arithmetic costs and native code saves.

    python scripts/measure_kernels.py --rounds 200 --json OUT
    python scripts/measure_kernels.py --kernels native native-bf16 --cpu-time --rows 1 2 4 8 16 32 128 512

All but `torch-fast` give a row the same bits in any company. Contenders take turns; medians. `--cpu-time` counts what
one thread computes, for machines that have other things to do.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool, pages_for
from trimode.engine.models.checkpoint import locate
from trimode.kernels import ops

CPU = torch.device("cpu")
CONTENDERS = ("native", "torch", "torch-fast")


def main() -> None:
    args = arguments()
    model = locate(args.checkpoint).load(torch.float32, CPU)[0]
    runners = {name: Runner(model, *ops.kernels(CPU, torch.float32, name)) for name in args.kernels}
    pool = PagePool(model.config, 1 << 26, torch.float32, CPU)
    table = pool.take(pages_for(args.context + max(args.rows)))
    report = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "clock": "cpu" if args.cpu_time else "wall",
        "context": args.context,
        "rounds": args.rounds,
        "rows": [measure(runners, pool, table, args, kind, rows) for kind in ("causal", "block") for rows in args.rows],
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--kernels", nargs="+", choices=ops.CHOICES, default=CONTENDERS)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--context", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(
    runners: dict[str, Runner], pool: PagePool, table: list[int], args: argparse.Namespace, kind: str, rows: int
) -> dict[str, Any]:
    """One line: median milliseconds of each contender for a pass of so many rows behind the context."""
    tokens, clock = tuple(range(50, 50 + rows)), time.process_time if args.cpu_time else time.perf_counter
    segment = Segment(start=args.context, trunk=tokens, read=rows)
    if kind == "block":
        segment = Segment(start=args.context, branches=(Branch(tokens=tokens, read=rows, adapter=True),))
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in track(range(args.rounds + 5), f"{kind} {rows}"):
        for name, runner in runners.items():
            begin = clock()
            Batch([segment], [table]).forward(runner, pool)
            if number >= 5:
                seconds[name].append(clock() - begin)
    medians = {name: round(1000 * statistics.median(found), 3) for name, found in seconds.items()}
    return {"kind": kind, "rows": rows, "ms": medians}


if __name__ == "__main__":
    main()
