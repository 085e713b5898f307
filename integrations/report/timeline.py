"""Where the bars of a run stand: time in nanoseconds to per cent of the timeline, where one slow call flattens nothing.

Knows starts and ends of calls. Does not know records or the template. Between two neighbouring events (a call starts or
ends) the scale is linear; a stretch that flattens the rest is drawn shorter, and marked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median_low
from typing import Final

LONGEST: Final = 8
"""Length at which a stretch without events is cut, in typical (median) calls."""
SHARE: Final = 0.1
"""Share of the whole from which a stretch is cut at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """`events`: nanoseconds, in order; `places`: per cent of the timeline by event; `breaks`: per cent at which marks
    stand, with the nanoseconds that are not drawn there."""

    events: tuple[int, ...]
    places: tuple[float, ...]
    breaks: tuple[tuple[float, int], ...]

    @property
    def left_out(self) -> int:
        """Nanoseconds that are not drawn."""
        return sum(hidden for _, hidden in self.breaks)

    def place(self, moment: int) -> float:
        """Returns per cent of the timeline, 0 before the first event and 100 after the last one."""
        if moment <= self.events[0] or len(self.events) == 1:
            return 0.0
        if moment >= self.events[-1]:
            return 100.0
        at = bisect_right(self.events, moment) - 1
        share = (moment - self.events[at]) / (self.events[at + 1] - self.events[at])
        return self.places[at] + share * (self.places[at + 1] - self.places[at])


def timeline(spans: Sequence[tuple[int, int]]) -> Timeline:
    """Returns the scale of calls with these starts and ends, in nanoseconds; at least one."""
    events = tuple(sorted({moment for span in spans for moment in span}))
    typical = median_low([end - start for start, end in spans])
    longest = LONGEST * typical if typical > 0 else events[-1] - events[0]
    flattens = max(longest, SHARE * (events[-1] - events[0]))
    lengths = [longest if after - before > flattens else after - before for before, after in pairwise(events)]
    whole = max(sum(lengths), 1)
    places = tuple(100 * done / whole for done in accumulate(lengths, initial=0))
    stretches = zip(pairwise(events), pairwise(places), strict=True)
    breaks = tuple(
        ((left + right) / 2, after - before - longest)
        for (before, after), (left, right) in stretches
        if after - before > flattens
    )
    return Timeline(events=events, places=places, breaks=breaks)
