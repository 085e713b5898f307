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
    loops = sorted({call.cluster for group in groups for call in group.usable}, key=lambda loop: _rank(loop, draw.seed))
    count = 0 if len(loops) < 2 else min(math.ceil(draw.held_out * len(loops)), len(loops) - 1)
    held = frozenset(loops[:count])
    return Sample(
        measured={group.name: _first(group, draw, held, False) for group in groups},
        held_out={group.name: _first(group, draw, held, True) for group in groups},
    )


def _first(group: Group, draw: Draw, held: frozenset[str], wanted: bool) -> tuple[RecordedCall, ...]:
    calls = [call for call in group.usable if (call.cluster in held) is wanted]
    return tuple(sorted(calls, key=lambda call: _rank(call.id, draw.seed))[: draw.most])


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
