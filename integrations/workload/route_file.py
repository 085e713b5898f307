"""The policy file of a study: modes by step for sessions, and what `trimode workload check` needs to check it again.

Knows TOML and policies. Does not know engines. `[steps]` holds the groups that go to a mode of the local engine, and is
what `trimode.toml` or `policy=PATH` reads. `[workload]` is read by `trimode workload check` alone: where every group
goes, also to other engines, and what was promised of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from trimode.policy.selection import Policy, Settings, as_toml, read_toml

from .answering.targets import LOCAL, Target
from .calls import Json
from .promises import Promise
from .refusals import RouteRefused
from .sampling import Draw
from .scoring.intervals import Interval
from .study import Study

_HEAD: Final = """\
# Written by `trimode workload`. [steps] is a policy of the local engine: `policy="FILE"`, or trimode.toml.
# [workload] says where each group goes and what was promised; `trimode workload check FILE LOG` checks it.
"""
_INTERVALS: Final = ("quality", "against")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """What a policy file promises, and the settings of the study that it came from."""

    draw: Draw
    level: float
    baseline: str
    promises: tuple[Promise, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """All runs that a check needs, the baseline first."""
        return tuple(dict.fromkeys((self.baseline, *(promise.run for promise in self.promises))))


def routes_text(study: Study, targets: Sequence[Target]) -> str:
    """Returns the policy file of a study."""
    by_name = {target.name: target for target in targets}
    local = {one.group: by_name[one.run] for one in study.decisions if one.run in by_name}
    steps = {
        group: Settings.of(dict(target.settings), f"[steps.{group}]")
        for group, target in local.items()
        if target.engine == LOCAL and target.settings
    }
    policy = Policy(name="workload", steps=steps)
    kept = {one.group: one.reason for one in study.decisions if one.stays}
    draw = study.plan.draw
    table = {
        "logs": list(study.names), "baseline": study.baseline, "by": study.by, "level": study.level,
        "sample": draw.most, "held_out": draw.held_out, "seed": draw.seed,
        **({"stays": kept} if kept else {}),
        "groups": {promise.group: _group(promise) for promise in study.promises},
    }  # fmt: skip
    return f"{_HEAD}{policy.to_toml()}\n{as_toml({'workload': table})}"


def _group(promise: Promise) -> dict[str, Any]:
    found: dict[str, Any] = {"run": promise.run, "wanted": promise.wanted}
    for name in _INTERVALS:
        one: Interval | None = getattr(promise, name)
        if one is not None:
            found |= {name: [one.value, one.low, one.high], f"{name}_calls": one.n}
    return found


def read_routes(path: Path) -> Routes:
    """Reads the `[workload]` table of a policy file. Raises RouteRefused, PolicyError for the rest of the file."""
    Policy.from_toml(path)
    table = read_toml(path).get("workload")
    if not isinstance(table, Mapping):
        raise RouteRefused(f"{path}: no [workload] table; expected a file that `trimode workload --policy` wrote")
    try:
        return _routes(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RouteRefused(f"{path}: [workload]: {type(error).__name__}: {error}; write the file again") from None


def _routes(table: Mapping[str, Json]) -> Routes:
    by = table["by"]
    if by not in ("seconds", "cost"):
        raise ValueError(f"by={by!r}: expected seconds or cost")
    promises = tuple(
        Promise(
            group=name,
            run=str(one["run"]),
            wanted=float(one["wanted"]),
            quality=cast(Interval, _interval(one, "quality")),
            by=by,
            baseline=str(table["baseline"]),
            against=_interval(one, "against"),
        )
        for name, one in table["groups"].items()
    )
    return Routes(
        draw=Draw(most=int(table["sample"]), held_out=float(table["held_out"]), seed=int(table["seed"])),
        level=float(table["level"]),
        baseline=str(table["baseline"]),
        promises=promises,
    )


def _interval(one: Mapping[str, Json], name: str) -> Interval | None:
    if name not in one and name != "quality":
        return None
    value, low, high = (float(at) for at in one[name])
    if not low <= value <= high:
        raise ValueError(f"{name}={one[name]!r}: expected a value between its limits")
    return Interval(value, low, high, int(one[f"{name}_calls"]))
