"""What `policy="auto"` is worth on recorded agent loops: against fixed modes, after a swap of the work, and its cost.

    python scripts/measure_auto.py FILE.jsonl.gz FILE2.jsonl.gz ... --steps 200 --live 1 8 --json OUT

Per source and number of live calls, the steps of its episodes are decoded in order by each fixed variant and by a
policy that begins with nothing learned; contenders take turns group by group, so that they meet the same machine.
Counted are the steps behind the first `--warm`: decode tokens/s by step kind (output tokens over the time after
prefill) and end to end (over the group's wall time). `share_of_best`: auto's over that of the best fixed variant of the
step kind, in hindsight. `mixed`: over all steps together, against the best single variant. `drift`: the policy sees the
steps of one source, then those of another; its rows are over the calls behind the first 50 after the swap. `overhead`:
CPU time of choosing, learning, span and record a call, measured one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from trimode.engine.errors import PromptTooLong
from trimode.engine.result import DecodeResult
from trimode.integrations.cli.evaluate import Plan, call_of
from trimode.policy.audit import AuditFile
from trimode.policy.auto import Auto
from trimode.policy.call import Call
from trimode.policy.engine import Engine
from trimode.policy.episodes import read_episodes
from trimode.policy.errors import SchemaError
from trimode.policy.resolve import StepContext, resolve
from trimode.policy.result import Result
from trimode.policy.scope import Scope, enter, leave
from trimode.policy.spec import Settings, variant

FIXED = ("ar", "linear_spec:4", "linear_spec:8", "linear_spec:16", "quadratic_spec:4:1", "quadratic_spec:6:2")
RECOVERY = 50


@dataclass(slots=True)
class Speed:
    """Sums over one contender's calls."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        self.calls += 1
        self.tokens += result.stats.output_tokens
        self.seconds += result.stats.seconds - result.stats.prefill_seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class Race:
    """One arm: speeds by (contender, step kind), wall seconds by contender, and tokens that were not those of `ar`."""

    speeds: dict[tuple[str, str], Speed] = field(default_factory=lambda: defaultdict(Speed))
    wall: dict[str, Speed] = field(default_factory=lambda: defaultdict(Speed))
    modes: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    switches: int = 0
    differ: int = 0


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    engine = Engine.load(args.checkpoint)
    sources = {path.name.removesuffix(".jsonl.gz"): calls_of(engine, path, args) for path in args.files}
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "kernels": engine.kernels,
        "model_sha256": engine.checkpoint.model_sha256,
        "cost": engine.cost.as_dict(),
        "steps": {name: len(calls) for name, calls in sources.items()},
        "warm": args.warm,
        "races": [race(engine, args, name, calls, live) for name, calls in sources.items() for live in args.live],
        "drift": [drift(engine, args, *pair) for pair in itertools.pairwise(sources.items())],
        "overhead": overhead(engine, next(iter(sources.values()))[: args.warm]),
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=200, help="of each source, in order")
    parser.add_argument("--warm", type=int, default=50, help="steps that are decoded before counting begins")
    parser.add_argument("--live", type=int, nargs="+", default=[1, 8], help="calls at a time")
    parser.add_argument("--fixed", nargs="+", default=list(FIXED), help="MODE[:BLOCK_LENGTH[:ROWS]]")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def calls_of(engine: Engine, path: Path, args: argparse.Namespace) -> list[Call]:
    """The first steps of a file that can be asked, in its own order."""
    return list(itertools.islice(_askable(engine, path, args), args.steps))


def _askable(engine: Engine, path: Path, args: argparse.Namespace) -> Iterator[Call]:
    settings = Settings(temperature=args.temperature, max_tokens=args.max_tokens)
    for episode in read_episodes(path):
        for step in episode.steps():
            try:
                call = call_of(engine, episode, step, Plan(modes=("ar",), settings=settings, prompt_tokens=608))
                engine.tokens.check(engine.translator.request(call))
            except (PromptTooLong, SchemaError):
                continue
            yield call


def policy_of(engine: Engine) -> Auto:
    return Auto(engine.cost, modes=engine.tokens.model.config.family.modes)


def planned(call: Call, word: str, auto: Auto, others: int) -> Call:
    """The call as a contender decodes it."""
    digest = None if call.schema is None else call.schema.sha256
    context = StepContext(kind=call.kind, name=call.step, schema_sha256=digest, others=others)
    said = Settings(temperature=call.plan.settings.temperature, max_tokens=call.plan.settings.max_tokens)
    if word == "auto":
        return replace(call, plan=resolve(context, (auto,), [("measured", said)]))
    return replace(call, plan=resolve(context, (), [(word, variant(word, word).over(said))]))


async def together(engine: Engine, calls: Sequence[Call], word: str, auto: Auto) -> list[Result]:
    """All calls live at once; each is planned as it begins, when the others are known."""

    async def one(call: Call, others: int) -> Result:
        return await engine.arun(planned(call, word, auto, others))

    return list(await asyncio.gather(*(one(call, len(calls) - 1) for call in calls)))


def race(engine: Engine, args: argparse.Namespace, name: str, calls: Sequence[Call], live: int) -> dict[str, Any]:
    auto, found = policy_of(engine), Race()
    contenders = [*args.fixed, "auto"]
    groups = [calls[at : at + live] for at in range(0, len(calls), live)]
    for number, group in enumerate(track(groups, f"{name} x{live}")):
        answers: dict[str, list[Result]] = {}
        # Every contender's prompts are in the cache before anyone is timed, and another one goes first each time.
        asyncio.run(together(engine, group, "ar", auto))
        for turn in range(len(contenders)):
            word = contenders[(number + turn) % len(contenders)]
            begin = time.perf_counter()
            answers[word] = asyncio.run(together(engine, group, word, auto))
            if number * live >= args.warm:
                wall = found.wall[word]
                wall.seconds += time.perf_counter() - begin
                wall.tokens += sum(len(result.token_ids) for result in answers[word])
        _count(found, answers, counted=number * live >= args.warm)
    return {"source": name, "live": live, **_summary(found, args.fixed), "regret": regret(auto)}


def _count(found: Race, answers: dict[str, list[Result]], counted: bool) -> None:
    for word, results in answers.items():
        for result, plain in zip(results, answers["ar"], strict=True):
            found.differ += result.token_ids != plain.token_ids
            if counted:
                found.speeds[word, result.plan.context.kind].add(result)
                if word == "auto":
                    found.modes[result.plan.context.kind][_words(result)] += 1
                    found.switches += any(made.switch for made in result.trace)


def _words(result: Result) -> str:
    settings = result.plan.settings
    knobs = [settings.block_length, settings.rows if result.plan.mode == "quadratic_spec" else None]
    knobs = [] if result.plan.mode == "ar" else [knob for knob in knobs if knob is not None]
    return ":".join([result.plan.mode, *map(str, knobs)])


def _summary(found: Race, fixed: Sequence[str]) -> dict[str, Any]:
    kinds = sorted({kind for _, kind in found.speeds})
    rows = []
    for kind in kinds:
        speeds = {word: found.speeds[word, kind].tokens_per_s for word in (*fixed, "auto")}
        best = max(fixed, key=lambda word: speeds[word])
        rows.append(
            {
                "step": kind,
                "calls": found.speeds["auto", kind].calls,
                "tokens_per_s": speeds,
                "best_fixed": best,
                "share_of_best": _share(speeds, best),
                "auto_chose": dict(found.modes[kind]),
            }
        )
    whole = {}
    for word in (*fixed, "auto"):
        parts = [found.speeds[word, kind] for kind in kinds]
        seconds = sum(part.seconds for part in parts)
        whole[word] = sum(part.tokens for part in parts) / seconds if seconds else 0.0
    best = max(fixed, key=lambda word: whole[word])
    return {
        "steps": rows,
        "mixed": {
            "tokens_per_s": whole,
            "best_fixed": best,
            "ratio": whole["auto"] / whole[best] if whole[best] else 0,
        },
        "end_to_end_tokens_per_s": {word: found.wall[word].tokens_per_s for word in (*fixed, "auto")},
        "switched_calls": found.switches,
        "differ_from_ar": found.differ,
    }


def _share(speeds: dict[str, float], best: str) -> float | None:
    return speeds["auto"] / speeds[best] if speeds.get(best) else None


def regret(auto: Auto) -> dict[str, float]:
    """What exploring cost by the policy's own expectation."""
    learned = auto.learned
    return {"seconds": learned.spent, "share": learned.spent / learned.total if learned.total else 0.0}


def drift(
    engine: Engine, args: argparse.Namespace, before: tuple[str, list[Call]], after: tuple[str, list[Call]]
) -> dict[str, Any]:
    """One policy over two sources in turn."""
    auto, speeds = policy_of(engine), defaultdict[str, Speed](Speed)
    for number, call in enumerate(track([*before[1], *after[1]], f"{before[0]} > {after[0]}")):
        since = number - len(before[1])
        for word in args.fixed if since >= RECOVERY else ():
            speeds[word].add(engine.run(planned(call, word, auto, 0)))
        result = engine.run(planned(call, "auto", auto, 0))
        if since >= RECOVERY:
            speeds["auto"].add(result)
    found = {word: speed.tokens_per_s for word, speed in speeds.items()}
    best = max(args.fixed, key=lambda word: found.get(word, 0.0))
    return {
        "from": before[0],
        "to": after[0],
        "tokens_per_s_after_recovery": found,
        "best_fixed": best,
        "share_of_best": _share(found, best),
    }


def overhead(engine: Engine, calls: Sequence[Call]) -> dict[str, float]:
    """Milliseconds of CPU a call, median: to choose, to learn, and for span and record; and their share of the call."""
    auto = policy_of(engine)
    chosen, learned, bare, traced, whole = (list[float]() for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        audit = AuditFile(Path(folder) / "audit.jsonl", content=False)
        for call in calls:
            begin = time.process_time()
            asked = planned(call, "auto", auto, 0)
            chosen.append(time.process_time() - begin)
            request = engine.translator.request(asked)
            begin = time.perf_counter()
            decoded = engine.tokens.decode(request)
            whole.append(time.perf_counter() - begin)
            assert isinstance(decoded, DecodeResult)
            begin = time.process_time()
            auto.observe(asked.plan, decoded)
            learned.append(time.process_time() - begin)
            for sink, times in ((None, bare), (audit, traced)):
                scope = Scope(audit=sink)
                before = enter(scope)
                recording = engine.recording(asked)
                leave(scope, before)
                begin = time.process_time()
                with recording:
                    recording.request, recording.result = request, decoded
                times.append(time.process_time() - begin)
    parts = {"choose": chosen, "learn": learned, "span_and_record": bare, "with_audit_file": traced}
    found = {f"{name}_ms": 1000 * statistics.median(times) for name, times in parts.items()}
    policy_and_trace = [a + b + c for a, b, c in zip(chosen, learned, traced, strict=True)]
    found["policy_and_trace_ms"] = 1000 * statistics.median(policy_and_trace)
    found["share_of_call"] = sum(policy_and_trace) / sum(whole)
    return found


if __name__ == "__main__":
    main()
