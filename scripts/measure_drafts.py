"""What drafts are worth on recorded steps: shared noise against independent draws, and rows against passes.

    python scripts/measure_drafts.py EPISODES.jsonl.gz ... --steps 60 --json OUT

`coupling`: linear_spec at each temperature, its drafts drawn with the noise of the verifier or with noise of their own.
`rows`: quadratic_spec with fewer and fewer acceptance points prepared, beside linear_spec and ar. Counts only, so the
machine does not matter; steps are a fixed shuffle over all files, without schema where `--free` says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rich.progress import track

from trimode.engine.decoding import speculation
from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Logits
from trimode.engine.errors import PromptTooLong
from trimode.engine.modes import linear_spec as mode
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaError
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.settings import Settings, variant

KINDS = ("plan", "tool_call", "json", "prose")
TRADE = ("ar", "linear_spec:6", "linear_spec:8", "linear_spec:32", "quadratic_spec:6:1", "quadratic_spec:6:2",
         "quadratic_spec:6:3", "quadratic_spec:6", "quadratic_spec:8:2", "quadratic_spec:8", "quadratic_spec:16:2",
         "quadratic_spec:16")  # fmt: skip
OTHER_SEED = 0x9E3779B9


def main() -> None:
    args = arguments()
    engine = Engine.load(args.checkpoint)
    report = {
        "model_sha256": engine.checkpoint.model_sha256,
        "files": [path.name for path in args.files],
        "steps_a_kind": args.steps,
        "coupling": list(coupling(engine, args)),
        "rows": list(rows(engine, args)),
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=60, help="of each kind")
    parser.add_argument("--free", action="store_true", help="leave the schema out")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def sample(engine: Engine, args: argparse.Namespace, kind: str) -> list[Call]:
    """The first steps of a fixed shuffle that can be asked."""
    steps = [(e, s) for path in args.files for e in read_episodes(path) for s in e.steps() if s.kind == kind]
    found: list[Call] = []
    for episode, step in Random(kind).sample(steps, len(steps)):
        try:
            settings = Settings(max_tokens=96, seed=len(found))
            call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=608))
            call = replace(call, schema=None) if args.free else call
            engine.tokens.check(engine.translator.request(call))
        except (PromptTooLong, SchemaError):
            continue
        found.append(call)
        if len(found) == args.steps:
            break
    return found


def in_mode(call: Call, word: str, temperature: float) -> Call:
    settings = variant(word, word).over(Settings(temperature=temperature)).over(call.plan.settings)
    return replace(call, plan=resolve(StepContext(kind=call.kind, name=call.step), (), [(word, settings)]))


def coupling(engine: Engine, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Per kind and temperature: tokens a cycle and accepted share, with shared noise and with independent draws."""
    for kind in KINDS:
        calls = sample(engine, args, kind)
        for temperature in (0.5, 1.0):
            asked = [in_mode(call, "linear_spec:16", temperature) for call in track(calls, f"{kind} T={temperature}")]
            shared = totals(engine, asked)
            with independent():
                apart = totals(engine, asked)
            yield {"kind": kind, "temperature": temperature, "shared": shared, "independent": apart}


def rows(engine: Engine, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Per kind and variant: passes and query tokens for the same output."""
    for kind in KINDS:
        calls = sample(engine, args, kind)
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


if __name__ == "__main__":
    main()
