"""What a swap of the work costs, what choosing and recording cost, and how long the demo's loop takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.progress import track

from trimode.engine.result import DecodeResult
from trimode.integrations.cli import demo
from trimode.policy.audit import AuditFile
from trimode.policy.auto import Auto
from trimode.policy.call import Call
from trimode.policy.engine import Engine
from trimode.policy.resolve import Policy
from trimode.policy.result import Result
from trimode.policy.scope import Scope, enter, leave
from trimode.policy.session import session, using
from trimode.policy.spec import variant

from .calls import planned
from .race import Speed

RECOVERY = 50


def drift(
    engine: Engine, args: Namespace, before: tuple[str, list[Call]], after: tuple[str, list[Call]]
) -> dict[str, Any]:
    """One policy over two sources in turn."""
    auto, speeds = Auto(engine.cost, modes=engine.tokens.model.config.family.modes), defaultdict[str, Speed](Speed)
    for number, call in enumerate(track([*before[1], *after[1]], f"{before[0]} > {after[0]}")):
        since = number - len(before[1])
        for word in args.fixed if since >= RECOVERY else ():
            _add(speeds[word], engine.run(planned(call, word, auto, 0)))
        result = engine.run(planned(call, "auto", auto, 0))
        if since >= RECOVERY:
            _add(speeds["auto"], result)
    found = {word: speed.tokens_per_s for word, speed in speeds.items()}
    best = max(args.fixed, key=lambda word: found.get(word, 0.0))
    return {
        "from": before[0],
        "to": after[0],
        "tokens_per_s_after_recovery": found,
        "best_fixed": best,
        "share_of_best": found["auto"] / found[best] if found.get(best) else None,
    }


def _add(speed: Speed, result: Result) -> None:
    speed.add(result.stats.output_tokens, result.stats.seconds - result.stats.prefill_seconds)


def overhead(engine: Engine, calls: Sequence[Call]) -> dict[str, float]:
    """Milliseconds of CPU a call, median: to choose, to learn, and for span and record; and their share of the call."""
    auto = Auto(engine.cost, modes=engine.tokens.model.config.family.modes)
    chosen, learned, bare, traced, whole = (list[float]() for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        audit = AuditFile(Path(folder) / "audit.jsonl", content=False)
        for call in calls:
            begin = time.thread_time()
            asked = planned(call, "auto", auto, 0)
            chosen.append(time.thread_time() - begin)
            request = engine.translator.request(asked)
            begin = time.perf_counter()
            decoded = engine.tokens.decode(request)
            whole.append(time.perf_counter() - begin)
            assert isinstance(decoded, DecodeResult)
            begin = time.thread_time()
            auto.observe(asked.plan, decoded)
            learned.append(time.thread_time() - begin)
            for sink, times in ((None, bare), (audit, traced)):
                scope = Scope(audit=sink)
                before = enter(scope)
                recording = engine.recording(asked)
                leave(scope, before)
                begin = time.thread_time()
                with recording:
                    recording.request, recording.result = request, decoded
                times.append(time.thread_time() - begin)
    parts = {"choose": chosen, "learn": learned, "span_and_record": bare, "with_audit_file": traced}
    found = {f"{name}_ms": 1000 * statistics.median(times) for name, times in parts.items()}
    policy_and_trace = [a + b + c for a, b, c in zip(chosen, learned, traced, strict=True)]
    found["policy_and_trace_ms"] = 1000 * statistics.median(policy_and_trace)
    found["share_of_call"] = sum(policy_and_trace) / sum(whole)
    return found


def loops(engine: Engine, args: Namespace) -> dict[str, Any]:
    """Seconds of one pass of the demo's loop over its episodes, end to end: prompts, grammars, spans and the audit file
    included, and the median over rounds in which contenders take turns. `auto` learns in the first round only."""
    auto = Auto(engine.cost, modes=engine.tokens.model.config.family.modes)
    words, took, steps = [*args.fixed, "auto"], defaultdict[str, list[float]](list), 0
    with tempfile.TemporaryDirectory() as folder:
        for number in track(range(args.loops + 1), "demo loop"):
            for word in Random(number).sample(words, len(words)):
                path = Path(folder) / f"{word.replace(':', '-')}-{number}.jsonl"
                begin = time.perf_counter()
                steps = _loop(engine, word, auto, path)
                took[word].append(time.perf_counter() - begin)
    found = {word: statistics.median(seconds[1:]) for word, seconds in took.items()}
    best = min(args.fixed, key=lambda word: found[word])
    return {"steps": steps, "seconds": found, "best_fixed": best, "share_of_best": found[best] / found["auto"]}


def _loop(engine: Engine, word: str, auto: Auto, path: Path) -> int:
    said = {} if word == "auto" else {k: v for k, v in variant(word, word).said().items() if v is not None}
    policy = auto if word == "auto" else Policy()
    with session(engine, policy=policy, trace=f"file:{path}", content=True) as current, using(**said):
        for episode in demo.episodes(4):
            for _ in demo.loop(episode):
                pass
    return len(current.results)
