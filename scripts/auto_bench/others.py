"""What a swap of the work costs, what choosing and recording cost, and how long the demo's loop takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

from rich.progress import track

from trimode.integrations.cli import demo
from trimode.policy.audit.trail import AuditFile
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.finish import finished
from trimode.policy.calls.result import Result
from trimode.policy.calls.scope import SCOPE, Scope
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.policies import Policy
from trimode.policy.selection.settings import variant
from trimode.policy.steps.sessions import session, using

from .calls import planned
from .race import Speed

RECOVERY = 50


def drift(
    engine: Engine, args: Namespace, before: tuple[str, list[Call]], after: tuple[str, list[Call]]
) -> dict[str, Any]:
    """One policy over two sources in turn."""
    auto, speeds = Auto(engine.cost, modes=engine.tokens.model.config.modes), defaultdict[str, Speed](Speed)
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


PAID = {"nothing": (False, False), "policy": (True, False), "trace": (False, True), "both": (True, True)}
"""Contenders of `overhead`: does `auto` choose and learn, are span and record made."""


def overhead(engine: Engine, calls: Sequence[Call]) -> dict[str, Any]:
    """Milliseconds of CPU, median, that calls cost the caller's thread: of the first 50 steps, and of all behind them.

    By difference, because a thread that wakes up pays for that whatever it does first: each call runs with nothing,
    with a policy that chooses and learns, with span and record (in an audit file without content), and with both, in
    random order. `share_of_call`: both, of the seconds of a call with nothing.
    """
    auto = Auto(engine.cost, modes=engine.tokens.model.config.modes)
    spent = {word: list[float]() for word in PAID}
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        audit = AuditFile(Path(folder) / "audit.jsonl", content=False)
        for number, call in enumerate(track(calls, "overhead")):
            engine.run(planned(call, "ar", auto, 0))
            for word in Random(number).sample(list(PAID), len(PAID)):
                cpu, seconds = _paid(engine, call, auto, audit, *PAID[word])
                spent[word].append(cpu)
                if word == "nothing":
                    whole.append(seconds)
    parts = {"first_50": slice(0, RECOVERY), "behind_them": slice(RECOVERY, None)}
    return {
        name: _more({word: times[part] for word, times in spent.items()}, whole[part])
        for name, part in parts.items()
        if whole[part]
    }


def _paid(engine: Engine, call: Call, auto: Auto, audit: AuditFile, chooses: bool, traces: bool) -> tuple[float, float]:
    """CPU seconds of this thread, and seconds, for one call; `ar` decodes where `auto` does not choose."""
    fixed = planned(call, "ar", auto, 0)
    scope = Scope(audit=audit if traces else None)
    entered = SCOPE.enter(scope)
    begin, cpu = time.perf_counter(), time.thread_time()
    asked = planned(call, "auto", auto, 0) if chooses else fixed
    recording = engine.recording(asked)
    with recording if traces else nullcontext():
        recording.request = engine.translator.request(asked)
        finished(engine.translator, recording, engine.tokens.decode(recording.request), has_adapter=True)
    found = time.thread_time() - cpu, time.perf_counter() - begin
    SCOPE.leave(entered)
    return found


def _more(spent: dict[str, list[float]], whole: list[float]) -> dict[str, float]:
    took = {word: 1000 * statistics.median(times) for word, times in spent.items()}
    more = {f"{word}_ms": took[word] - took["nothing"] for word in PAID if word != "nothing"}
    mean = (sum(spent["both"]) - sum(spent["nothing"])) / len(whole)
    return {"calls": len(whole), **more, "both_ms_mean": 1000 * mean, "share_of_call": mean * len(whole) / sum(whole)}


def loops(engine: Engine, args: Namespace) -> dict[str, Any]:
    """Seconds of one pass of the demo's loop over its episodes, end to end: prompts, grammars, spans and the audit file
    included, and the median over rounds in which contenders take turns. `auto` learns in the first round only."""
    auto = Auto(engine.cost, modes=engine.tokens.model.config.modes)
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
    said = {} if word == "auto" else {k: v for k, v in variant(word, word).given().items() if v is not None}
    policy = auto if word == "auto" else Policy()
    with session(engine, policy=policy, trace=f"file:{path}", content=True) as current, using(**said):
        for episode in demo.episodes(4):
            for _ in demo.loop(episode):
                pass
    return len(current.results)
