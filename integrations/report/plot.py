"""The acceptance plots of one call: a column a round, or a denoise pass, as numbers for an inline SVG.

Knows rounds of a record. Long calls are binned, and the plot says by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trimode.policy.audit import RoundRecord

COLUMNS: Final = 120
HEIGHT: Final = 56
"""Of the highest column, in units of the drawing; a column and its gap take `STEP` of them."""
STEP: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Heights, from the ground: what stayed, and above it what did not."""

    x: int
    kept: float
    lost: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    columns: tuple[Column, ...]
    width: int
    title: str
    words: str


def plots(rounds: Sequence[RoundRecord]) -> Iterator[Plot]:
    """Drafts by round, and slots by denoise pass; nothing where nothing was drafted."""
    drafts = [(made.accepted, len(made.rejected)) for made in rounds if made.drafted]
    if drafts:
        accepted, drafted = sum(made.accepted for made in rounds), sum(made.drafted for made in rounds)
        yield _plot(drafts, "Drafts by round", f"{accepted} of {drafted} accepted", ("accepted", "rejected"))
    fills = [(filled, 0) for made in rounds for filled in made.fills]
    if fills:
        filled = sum(count for count, _ in fills)
        yield _plot(fills, "Slots by denoise pass", f"{filled} filled in {len(fills)} passes", ("filled", ""))


def _plot(counts: Sequence[tuple[int, int]], title: str, words: str, names: tuple[str, str]) -> Plot:
    size = -(-len(counts) // COLUMNS)
    bins = [counts[first : first + size] for first in range(0, len(counts), size)]
    sums = [(sum(kept for kept, _ in chosen), sum(lost for _, lost in chosen)) for chosen in bins]
    scale = HEIGHT / max(1, *(kept + lost for kept, lost in sums))
    return Plot(
        columns=tuple(
            Column(x=at * STEP, kept=kept * scale, lost=lost * scale, tip=_tip(at + 1, (kept, lost), names))
            for at, (kept, lost) in enumerate(sums)
        ),
        width=len(sums) * STEP,
        title=title,
        words=words if size == 1 else f"{words}; a column stands for {size}",
    )


def _tip(number: int, counts: tuple[int, int], names: tuple[str, str]) -> str:
    return f"{number}: " + ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True) if name)
