"""A study as JSON values, for `--json`.

Knows studies. Does not know files. It holds no text of prompts and outputs, but the names of groups.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..promises import Checked
from ..routing import Decision
from ..scoring.intervals import Interval
from ..scoring.measures import Measure
from ..study import Study, total

Json = Any


def study_json(study: Study) -> dict[str, Json]:
    """Returns the study as JSON; an interval is [value, low, high], where infinite None."""
    return {
        "logs": list(study.names), "calls": study.calls, "loops": study.loops, "runs": list(study.runs),
        "baseline": study.baseline, "by": study.by, "level": study.level,
        "draw": asdict(study.plan.draw), "lacks": dict(study.lacks), "left_out": dict(study.left_out),
        "unusable": dict(study.unusable), "ignored": dict(study.ignored),
        "currency": study.plan.prices.currency,
        "groups": [
            {"group": group.name, "kinds": list(group.kinds), "calls": len(group.calls), "loops": group.loops}
            for group in study.groups
        ],
        "measures": [measure_json(one) for one in study.measures],
        "decisions": [decision_json(one) for one in study.decisions],
        "total": interval_json(total(study)),
        "loop_seconds": {one.run: interval_json(one.seconds) for one in study.loop_times},
        "held_out": [checked_json(one) for one in study.checks],
        "results": study.results, "earlier": study.earlier,
    }  # fmt: skip


def interval_json(one: Interval | None) -> list[float | None] | None:
    """Returns [value, low, high]; JSON has no infinity."""
    if one is None:
        return None
    return [at if abs(at) < float("inf") else None for at in (one.value, one.low, one.high)]


def measure_json(one: Measure) -> dict[str, Json]:
    intervals = {name: interval_json(getattr(one, name)) for name in ("quality", "valid", "first", "last", "cost")}
    plain = ("group", "run", "n", "names", "arguments", "fields", "prose", "p50", "p95", "per_pass", "tokens")
    return {name: getattr(one, name) for name in plain} | intervals | {"errors": dict(one.errors)}


def decision_json(one: Decision) -> dict[str, Json]:
    return {
        "group": one.group, "run": one.run, "stays": one.stays, "reason": one.reason, "wanted": one.wanted,
        "against": interval_json(one.against),
    }  # fmt: skip


def checked_json(one: Checked) -> dict[str, Json]:
    promise = one.promise
    return {
        "group": promise.group, "run": promise.run, "verdict": one.verdict, "why": one.why,
        "calls": None if one.quality is None else one.quality.n, "wanted": promise.wanted,
        "quality": {
            "promised": interval_json(promise.quality), "measured": interval_json(one.quality),
            "off": interval_json(one.quality_off),
        },
        "against": {
            "promised": interval_json(promise.against), "measured": interval_json(one.against),
            "off": interval_json(one.against_off),
        },
    }  # fmt: skip
