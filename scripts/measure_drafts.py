"""What drafts are worth on recorded steps: modes side by side, shared noise or independent draws, rows or passes.

    python scripts/measure_drafts.py EPISODES.jsonl.gz ... --steps 60 --json OUT
    python scripts/measure_drafts.py EPISODES.jsonl.gz ... --parts modes --checkpoint smollm2 --adapter DIR --steps 8 \\
        --temperatures 0 0.7 1 --seconds 540 --json OUT

`modes`: variants by turns on the same steps of each file and kind: tokens a pass, accepted tokens a draft without those
that a schema forced, tokens/s (after prefill, and of whole calls whose prompt is in the prefix cache) with medians and
ratios to `ar`, and outputs that differ from it. `--json` is written after each step, so that what it says holds
whenever the run is ended. This part alone needs a quiet machine.
`coupling`: linear_spec at each temperature, its drafts drawn with the noise of the verifier or with noise of their own.
`rows`: quadratic_spec with fewer and fewer acceptance points prepared, beside linear_spec and ar. Both count only, so
the machine does not matter; their steps are a fixed shuffle over all files, without schema where `--free` says so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from draft_bench.modes import STRUCTURED, Comparison, compare, turns
from draft_bench.steps import KINDS, in_mode, sample
from rich.progress import track

from trimode.engine.decoding import speculation
from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Logits
from trimode.engine.modes import linear_spec as mode
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine

MODES = ("ar", "linear_spec", "quadratic_spec", "lookup_spec")
TRADE = ("ar", "linear_spec:6", "linear_spec:8", "linear_spec:32", "quadratic_spec:6:1", "quadratic_spec:6:2",
         "quadratic_spec:6:3", "quadratic_spec:6", "quadratic_spec:8:2", "quadratic_spec:8", "quadratic_spec:16:2",
         "quadratic_spec:16")  # fmt: skip
OTHER_SEED = 0x9E3779B9


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    engine = Engine.load(
        args.checkpoint, adapter=False if args.adapter == "none" else args.adapter, kernels=args.kernels
    )
    about: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": engine.kernels,
        "checkpoint": engine.checkpoint.name,
        "model_sha256": engine.checkpoint.model_sha256,
        "adapter": engine.runtime.adapter,
        "adapter_sha256": engine.runtime.adapter_sha256,
        "files": [path.name for path in args.files],
        "steps_a_kind": args.steps,
    }
    report = {**about, **{part: PARTS[part](engine, args, about) for part in args.parts}}
    print(json.dumps(report, indent=1))
    if args.json:
        write(args.json, report)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--parts", nargs="+", default=["coupling", "rows"], choices=list(PARTS))
    parser.add_argument("--steps", type=int, default=60, help="of each kind; in `modes` of each file and kind")
    parser.add_argument("--free", action="store_true", help="leave the schema out")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--adapter", default=None, help="a folder, or none; the checkpoint's own if not given")
    parser.add_argument("--kernels", default="auto", help="as in `Engine.load`")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--variants", nargs="+", default=list(MODES), help="of `modes`: MODE[:BLOCK_LENGTH[:ROWS]]")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0], help="of `modes`")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which `modes` begins no other step")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def write(out: Path, report: dict[str, Any]) -> None:
    """Writes `report`, in one step."""
    part = out.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


def modes(engine: Engine, args: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """All variants on the same steps."""
    found = Comparison(args.variants if "ar" in args.variants else ["ar", *args.variants], args.temperatures)
    for number, turn in enumerate(turns(engine, args.files, args.steps, args.free)):
        if found.seconds > args.seconds:
            break
        found.add(compare(engine, turn, found.variants, found.temperatures, number))
        print(progress(found, number + 1), file=sys.stderr, flush=True)
        if args.json:
            write(args.json, {**about, "modes": found.report()})
    return found.report()


def progress(found: Comparison, steps: int) -> str:
    """A line: steps, seconds, and tokens a pass and a second of each variant on structured steps so far."""
    totals = {word: found.total(found.temperatures[0], word, STRUCTURED).as_dict() for word in found.variants}
    seen = ", ".join(f"{word} {one['tpf'] or 0:.2f}, {one['tokens_per_s'] or 0:.0f}/s" for word, one in totals.items())
    return f"{steps} steps, {found.seconds:.0f} s: {seen}"


def coupling(engine: Engine, args: argparse.Namespace, _: object) -> Iterator[dict[str, Any]]:
    """Per kind and temperature: tokens a cycle and accepted share, with shared noise and with independent draws."""
    for kind in KINDS:
        calls = sample(engine, args.files, kind, args.steps, args.free)
        for temperature in (0.5, 1.0):
            asked = [in_mode(call, "linear_spec:16", temperature) for call in track(calls, f"{kind} T={temperature}")]
            shared = totals(engine, asked)
            with independent():
                apart = totals(engine, asked)
            yield {"kind": kind, "temperature": temperature, "shared": shared, "independent": apart}


def rows(engine: Engine, args: argparse.Namespace, _: object) -> Iterator[dict[str, Any]]:
    """Per kind and variant: passes and query tokens for the same output."""
    for kind in KINDS:
        calls = sample(engine, args.files, kind, args.steps, args.free)
        for word in TRADE:
            yield {"kind": kind, "variant": word, **totals(engine, [in_mode(c, word, 0.0) for c in track(calls, word)])}


def totals(engine: Engine, calls: list[Call]) -> dict[str, Any]:
    stats = [engine.run(call).stats for call in calls]
    tokens, passes = sum(s.output_tokens for s in stats), sum(s.forward_passes for s in stats)
    drafted, accepted = sum(s.drafted for s in stats), sum(s.accepted for s in stats)
    return {
        "steps": len(stats),
        "tokens": tokens,
        "passes": passes,
        "tpf": tokens / passes,
        "query_tokens": sum(s.query_tokens for s in stats),
        "drafted": drafted,
        "accepted": accepted,
        "accepted_share": accepted / drafted if drafted else None,
    }


@contextmanager
def independent() -> Generator[None]:
    """Inside, drafts are drawn with noise of another seed, as if the drafter knew nothing of the verifier's."""

    def propose(gate: Gate, logits: Logits | None, limit: int) -> speculation.Draft:
        if logits is not None:
            mine = logits.sampler
            other = replace(mine.settings, seed=mine.settings.seed ^ OTHER_SEED)
            logits = Logits(logits.rows, logits.first, Sampler(other, mine.vocab_size, mine.banned, mine.kernels))
        return speculation.propose(gate, logits, limit)

    setattr(mode, "propose", propose)  # noqa: B010  a measurement, not an interface
    try:
        yield
    finally:
        setattr(mode, "propose", speculation.propose)  # noqa: B010


PARTS: dict[str, Callable[[Engine, argparse.Namespace, dict[str, Any]], Any]] = {
    "modes": modes,
    "coupling": lambda *given: list(coupling(*given)),
    "rows": lambda *given: list(rows(*given)),
}


if __name__ == "__main__":
    main()
