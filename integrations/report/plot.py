"""The acceptance plots of one call, with a column for each round or denoise pass, as numbers for an inline SVG.

Knows rounds of a record. Does not know the page. Long calls are binned, and the caption gives the size of a bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trimode.policy.audit import RoundRecord

COLUMNS: Final = 120
HEIGHT: Final = 56
"""Height of the highest column, in units of the drawing."""
STEP: Final = 8
"""Width of a column and its gap, in units of the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Heights of a column: kept tokens, and above them rejected ones."""

    x: int
    kept: float
    rejected: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    columns: tuple[Column, ...]
    width: int
    title: str
    caption: str


def plots(rounds: Sequence[RoundRecord]) -> Iterator[Plot]:
    """Yields the plots of drafts by round and of slots by denoise pass; none where nothing was drafted."""
    drafts = [(round_.accepted, len(round_.rejected)) for round_ in rounds if round_.drafted]
    if drafts:
        accepted, drafted = sum(round_.accepted for round_ in rounds), sum(round_.drafted for round_ in rounds)
        yield _plot(drafts, "Drafts by round", f"{accepted} of {drafted} accepted", ("accepted", "rejected"))
    fills = [(filled, 0) for round_ in rounds for filled in round_.fills]
    if fills:
        filled = sum(count for count, _ in fills)
        yield _plot(fills, "Slots by denoise pass", f"{filled} filled in {len(fills)} passes", ("filled", ""))


def _plot(counts: Sequence[tuple[int, int]], title: str, caption: str, names: tuple[str, str]) -> Plot:
    size = -(-len(counts) // COLUMNS)
    bins = [counts[first : first + size] for first in range(0, len(counts), size)]
    sums = [(sum(kept for kept, _ in chosen), sum(rejected for _, rejected in chosen)) for chosen in bins]
    scale = HEIGHT / max(1, *(kept + rejected for kept, rejected in sums))
    return Plot(
        columns=tuple(
            Column(x=at * STEP, kept=kept * scale, rejected=rejected * scale, tip=_tip(at + 1, (kept, rejected), names))
            for at, (kept, rejected) in enumerate(sums)
        ),
        width=len(sums) * STEP,
        title=title,
        caption=caption if size == 1 else f"{caption}; a column stands for {size}",
    )


def _tip(number: int, counts: tuple[int, int], names: tuple[str, str]) -> str:
    return f"{number}: " + ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True) if name)
