"""The sample: whole loops are held out, and of each group so many calls are measured, by a seed.

Knows groups. Does not know results. A loop's calls share its words, so a held-out call never has a neighbour in the
sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .calls import RecordedCall
from .groups import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How calls are drawn. `most`: calls of a group that are measured, and as many that are held out. `held_out`: the
    share of loops, from 0 (none) to 1."""

    most: int = 80
    held_out: float = 0.4
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Calls by group, in the order in which they are measured."""

    measured: dict[str, tuple[RecordedCall, ...]]
    held_out: dict[str, tuple[RecordedCall, ...]]


def drawn(groups: Sequence[Group], draw: Draw) -> Sample:
    """Returns the calls to be measured, and those held out. The same calls and seed give the same sample."""
    held = _held_out(groups, draw)
    return Sample(
        measured={group.name: _first(group, draw, held, False) for group in groups},
        held_out={group.name: _first(group, draw, held, True) for group in groups},
    )


def _held_out(groups: Sequence[Group], draw: Draw) -> frozenset[str]:
    """Returns the loops that are held out: the share of each kind of loop, by the first of its groups, so that each is
    on both sides."""
    first: dict[str, str] = {}
    for group in sorted(groups, key=lambda one: one.name):
        for call in group.usable:
            first.setdefault(call.cluster, group.name)
    found = set[str]()
    for name in set(first.values()):
        loops = sorted((loop for loop, own in first.items() if own == name), key=lambda one: _rank(one, draw.seed))
        found.update(loops[: min(math.ceil(draw.held_out * len(loops)), len(loops) - 1)])
    return frozenset(found)


def _first(group: Group, draw: Draw, held: frozenset[str], wanted: bool) -> tuple[RecordedCall, ...]:
    calls = [call for call in group.usable if (call.cluster in held) is wanted]
    return tuple(sorted(calls, key=lambda call: _rank(call.id, draw.seed))[: draw.most])


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
