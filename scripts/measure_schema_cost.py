"""What holding a schema costs, against the same steps decoded free, in one run.

    python scripts/measure_schema_cost.py EPISODES.jsonl.gz ... --steps 60 --rounds 5 --json OUT

Tool-call and json steps, each after its recorded history, are decoded under their schema and free of it, from the same
prompt ids and with the prompt in the cache, so that little but decoding is left. Rounds alternate between the two; a
step's time is the median of its rounds. `time`: held over free, of whole calls; `time_a_pass` and `time_a_token`
likewise; `passes_a_token`: forward passes for an output token, held over free. `gate`: the part of the held calls' time
that the gate took (masks, checks, the way to an ending) while the model stood still. `--shape 110m`: random weights of
that size, whose passes take longer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measure_load import BUNDLED, SHAPES, random_engine
from rich.progress import track

from trimode.engine.decoding.gate import Gate
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import CONSTRAINED, Plan, in_mode, question
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.settings import Settings

SETTINGS = {
    "ar": Settings(mode="ar"),
    "linear_spec": Settings(mode="linear_spec", block_length=8),
    "diffusion": Settings(mode="diffusion", exact=False),
}


@dataclass(slots=True)
class Clock:
    """Seconds spent in the gates of all requests, calls from within counted once."""

    seconds: float = 0.0
    _inside: bool = False

    def times(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any) -> Any:
            if self._inside:
                return method(*args)
            self._inside, begin = True, time.perf_counter()
            try:
                return method(*args)
            finally:
                self._inside, self.seconds = False, self.seconds + time.perf_counter() - begin

        return timed


GATES = Clock()


@dataclass(slots=True)
class Readings:
    """One step in one mode: decoding and gate seconds of each round, and the output, the same in every round."""

    seconds: list[float] = field(default_factory=list)
    gates: list[float] = field(default_factory=list)
    tokens: int = 0
    passes: int = 0

    def add(self, result: DecodeResult, gates: float) -> None:
        stats = result.stats
        self.seconds.append(stats.seconds - stats.prefill_seconds)
        self.gates.append(gates)
        self.tokens, self.passes = stats.output_tokens, max(1, stats.forward_passes)

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    for name in ("mask", "forced", "allows", "resolve", "advance", "fork", "take_forced"):
        setattr(Gate, name, GATES.times(getattr(Gate, name)))
    engine = Engine.load(kernels=args.kernels)
    if args.shape != BUNDLED:
        engine = random_engine(engine, args.shape)
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": engine.kernels,
        "shape": args.shape,
        "threads": args.threads,
        "model_sha256": engine.checkpoint.model_sha256,
        "files": [file.name for file in args.files],
        "rounds": args.rounds,
        "rows": [],
    }
    calls = list(askable(engine, args))
    for mode in args.modes:
        settings = SETTINGS[mode]
        plan = Plan(modes=(mode,), settings=settings.over(Settings(max_tokens=args.max_tokens)), prompt_tokens=608)
        report["rows"] += measured(engine, mode, [in_mode(call, mode, plan) for call in calls], args.rounds)
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=60, help="of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", default=BUNDLED, choices=[BUNDLED, *SHAPES])
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--modes", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def askable(engine: Engine, args: argparse.Namespace) -> Iterator[Call]:
    plan = Plan(modes=("ar",), settings=Settings(max_tokens=args.max_tokens), prompt_tokens=608)
    for file in args.files:
        steps = (
            (episode, step) for episode in read_episodes(file) for step in episode.steps() if step.kind in CONSTRAINED
        )
        calls = (question(engine, episode, step, plan) for episode, step in steps)
        yield from islice((call for call in calls if isinstance(call, Call)), args.steps)


def measured(engine: Engine, mode: str, calls: Sequence[Call], rounds: int) -> list[dict[str, Any]]:
    """A row a step kind."""
    found: dict[str, list[tuple[Readings, Readings]]] = {}
    for call in track(calls, description=mode):
        held, free = Readings(), Readings()
        for number in range(rounds + 1):
            for readings, constrained in ((held, True), (free, False)) if number % 2 else ((free, False), (held, True)):
                before = GATES.seconds
                result = decoded(engine, call, constrained)
                if number:  # the first fills the cache
                    readings.add(result, GATES.seconds - before)
        found.setdefault(call.kind, []).append((held, free))
    return [row(mode, kind, pairs) for kind, pairs in sorted(found.items())]


def decoded(engine: Engine, call: Call, constrained: bool) -> DecodeResult:
    request = engine.translator.request(call)
    assert isinstance(request, DecodeRequest)
    return engine.tokens.decode(request if constrained else replace(request, constraint=None))


def row(mode: str, kind: str, pairs: Sequence[tuple[Readings, Readings]]) -> dict[str, Any]:
    times = sorted(held.time / free.time for held, free in pairs)
    return {
        "mode": mode,
        "step": kind,
        "n": len(pairs),
        "tokens": [sum(held.tokens for held, _ in pairs), sum(free.tokens for _, free in pairs)],
        "passes": [sum(held.passes for held, _ in pairs), sum(free.passes for _, free in pairs)],
        "time": total(pairs, lambda one: one.time),
        "time_median": statistics.median(times),
        "time_p95": times[int(0.95 * (len(times) - 1))],
        "time_a_pass": statistics.median((h.time / h.passes) / (f.time / f.passes) for h, f in pairs),
        "time_a_token": statistics.median((h.time / h.tokens) / (f.time / f.tokens) for h, f in pairs),
        "gate": sum(statistics.median(held.gates) for held, _ in pairs) / sum(held.time for held, _ in pairs),
        "passes_a_token": (total(pairs, lambda one: one.passes) / total(pairs, lambda one: one.tokens)),
    }


def total(pairs: Sequence[tuple[Readings, Readings]], what: Any) -> float:
    """The sum over held outputs over that of free ones."""
    return float(sum(what(held) for held, _ in pairs) / sum(what(free) for _, free in pairs))


if __name__ == "__main__":
    main()
