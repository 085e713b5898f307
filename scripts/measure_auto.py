"""What `policy="auto"` is worth on recorded agent loops: against fixed modes, after a swap of the work, and its cost.

    python scripts/measure_auto.py FILE.jsonl.gz FILE2.jsonl.gz ... --steps 260 --live 1 8 --state DIR --json OUT

Per source and number of live calls, the steps of its episodes are decoded in order by each fixed variant and by a
policy that begins with nothing learned; contenders take turns group by group, so that they meet the same machine.
Stopped, the same command goes on behind the last whole group that `--state` holds. Counted are the steps behind the
first `--warm`, each at the median of `--rounds` (in the later ones the plan is that of the first, and nobody learns):
decode tokens/s by step kind (output tokens over the time after prefill; where `auto` decoded a group as `ar` does, both
count by the samples of both) and end to end (over the group's wall time, each by its own). `share_of_best`: auto's over
that of the best fixed variant, in hindsight, of the step kind, and of all steps together (`mixed`). `regret`: what
trying out cost by the policy's own expectation. `drift`: the policy sees the steps of one source, then those of
another; its rows are over the calls behind the first 50 after the swap.
`overhead`: what choosing, learning, span and record add to the CPU time of the calling thread. `loop`: seconds of the
demo's agent loop, end to end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from auto_bench.calls import calls_of
from auto_bench.others import drift, loops, overhead
from auto_bench.race import race
from measure_load import BUNDLED, SHAPES, random_engine

from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine

FIXED = ("ar", "linear_spec:4", "linear_spec:8", "linear_spec:16", "quadratic_spec:4:1", "quadratic_spec:6:2")


Sources = dict[str, list[Call]]


def races(engine: Engine, args: argparse.Namespace, sources: Sources) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        state = args.state or Path(folder)
        return [race(engine, args, state, name, calls, live) for name, calls in sources.items() for live in args.live]


PARTS: dict[str, Callable[[Engine, argparse.Namespace, Sources], Any]] = {
    "races": races,
    "drift": lambda engine, args, sources: [drift(engine, args, *pair) for pair in itertools.pairwise(sources.items())],
    "overhead": lambda engine, _, sources: overhead(engine, next(iter(sources.values()))),
    "loop": lambda engine, args, _: loops(engine, args),
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    engine = Engine.load(args.checkpoint, kernels=args.kernels)
    if args.shape != BUNDLED:
        engine = random_engine(engine, args.shape)
    sources = {path.name.removesuffix(".jsonl.gz"): calls_of(engine, path, args) for path in args.files}
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "kernels": engine.kernels,
        "model": args.shape,
        "model_sha256": engine.checkpoint.model_sha256,
        "cost": engine.cost.as_dict(),
        "steps": {name: len(calls) for name, calls in sources.items()},
        "warm": args.warm,
        "rounds": args.rounds,
        **{part: PARTS[part](engine, args, sources) for part in args.parts},
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=260, help="of each source, in order")
    parser.add_argument("--warm", type=int, default=50, help="steps that are decoded before counting begins")
    parser.add_argument("--live", type=int, nargs="+", default=[1, 8], help="calls at a time")
    parser.add_argument("--fixed", nargs="+", default=list(FIXED), help="MODE[:BLOCK_LENGTH[:ROWS]]")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--shape", default=BUNDLED, choices=[BUNDLED, *SHAPES], help="as in measure_load.py")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--kernels", default="auto", help="as in `Engine.load`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loops", type=int, default=5, help="rounds of the demo's loop")
    parser.add_argument("--state", type=Path, help="a folder in which a measurement that was stopped goes on")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
