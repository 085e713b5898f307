"""Contenders in turn over the steps of one source, group by group; every group is a row of the journal."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.progress import track

from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.result import Result
from trimode.policy.selection.auto import Auto

from .calls import repeated, together, words_of
from .journal import Journal


@dataclass(slots=True)
class Speed:
    """Sums over one contender's calls."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.calls += 1
        self.tokens += tokens
        self.seconds += seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def race(engine: Engine, args: Namespace, folder: Path, name: str, calls: Sequence[Call], live: int) -> dict[str, Any]:
    """Goes on where `folder` says that it stopped, with what the policy had learned by then."""
    contenders, modes = [*args.fixed, "auto"], engine.tokens.model.config.modes
    about = {"source": name, "live": live, "steps": len(calls), "fixed": args.fixed, "temperature": args.temperature,
             "max_tokens": args.max_tokens, "threads": args.threads, "rounds": args.rounds,
             "model": engine.runtime.model_sha256, "kernels": engine.runtime.kernels}  # fmt: skip
    journal = Journal(folder / f"{name}-x{live}.jsonl", about)
    auto = Auto.kept(engine.cost, modes, folder / f"{name}-x{live}.auto.json")
    groups = [calls[at : at + live] for at in range(0, len(calls), live)]
    for number, group in enumerate(track(groups, f"{name} x{live}")):
        if number >= len(journal.rows):
            row = _row(engine, contenders, args.rounds, number, group, auto)
            auto.save()
            journal.append(row)
    spent, total = auto.learned.spent, auto.learned.total
    regret = {"seconds": spent, "share": spent / total if total else 0.0}
    counted = journal.rows[-(-args.warm // live) :]
    differ = sum(call["differs"] for row in journal.rows for each in row.values() for call in each["calls"])
    return {"source": name, "live": live, **_summary(counted, args.fixed), "differ_from_ar": differ, "regret": regret}


def _row(
    engine: Engine, contenders: Sequence[str], rounds: int, number: int, group: Sequence[Call], auto: Auto
) -> dict[str, Any]:
    """Every contender's group, in several rounds of which the policy chooses and learns in the first; medians count.

    Where `auto` ran a whole group in `ar`, decode times of the two are samples of one thing, and both count by all.
    """
    answers: dict[str, list[Result]] = {}
    wall, took = defaultdict[str, list[float]](list), defaultdict[str, list[list[float]]](list)
    dice = Random(number)
    # Every contender's prompts are in the cache before anyone is timed. The order is another one each time: who always
    # follows the same contender finds the processor's caches as that one left them, which was worth 6 %.
    asyncio.run(together(engine, group, "ar", auto))
    for word in chain.from_iterable(dice.sample(contenders, len(contenders)) for _ in range(rounds)):
        begin, first = time.perf_counter(), answers.get(word)
        work = together(engine, group, word, auto) if first is None else repeated(engine, group, first)
        found = asyncio.run(work)
        wall[word].append(time.perf_counter() - begin)
        took[word].append([result.stats.seconds - result.stats.prefill_seconds for result in found])
        answers.setdefault(word, found)
    if all(result.plan.mode == "ar" for result in answers["auto"]):
        took["ar"] = took["auto"] = took["ar"] + took["auto"]  # the same work: what differs is the machine
    return {
        word: {
            "wall": median(wall[word]),
            "calls": [
                _call(result, plain, median(each))
                for result, plain, each in zip(answers[word], answers["ar"], zip(*took[word], strict=True), strict=True)
            ],
        }
        for word in contenders
    }


def _call(result: Result, plain: Result, seconds: float) -> dict[str, Any]:
    return {
        "kind": result.plan.context.kind,
        "tokens": result.stats.output_tokens,
        "seconds": seconds,
        "variant": words_of(result),
        "tried": result.plan.forecast is not None and result.plan.forecast.regret > 0,
        "switched": any(made.switch for made in result.trace),
        "differs": result.token_ids != plain.token_ids,
    }


def _summary(rows: Sequence[dict[str, Any]], fixed: Sequence[str]) -> dict[str, Any]:
    words = [*fixed, "auto"]
    by_kind: dict[str, dict[str, Speed]] = defaultdict(lambda: {word: Speed() for word in words})
    whole, wall = {word: Speed() for word in words}, {word: Speed() for word in words}
    chose: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    switched = tried = 0
    for row in rows:
        for word in words:
            calls = row[word]["calls"]
            wall[word].add(sum(call["tokens"] for call in calls), row[word]["wall"])
            for call in calls:
                by_kind[call["kind"]][word].add(call["tokens"], call["seconds"])
                whole[word].add(call["tokens"], call["seconds"])
        for call in row["auto"]["calls"]:
            chose[call["kind"]][call["variant"]] += 1
            switched, tried = switched + call["switched"], tried + call["tried"]
    return {
        "steps": [
            {"step": kind, **_against(by_kind[kind], fixed), "auto_chose": chose[kind]} for kind in sorted(by_kind)
        ],
        "mixed": _against(whole, fixed),
        "end_to_end": _against(wall, fixed),
        "switched_calls": switched,
        "tried_calls": tried,
    }


def _against(speeds: dict[str, Speed], fixed: Sequence[str]) -> dict[str, Any]:
    best = max(fixed, key=lambda word: speeds[word].tokens_per_s)
    most = speeds[best].tokens_per_s
    return {
        "calls": speeds["auto"].calls,
        "tokens_per_s": {word: speed.tokens_per_s for word, speed in speeds.items()},
        "best_fixed": best,
        "share_of_best": speeds["auto"].tokens_per_s / most if most else None,
    }
