"""Why each recorded call was decoded as it was: its modes, the policy's reason, and its switches of mode.

Knows records. Does not know policies or engines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..audit import CallRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The modes of one recorded call and the reasons for them. `switches`: `mode > mode: reason`."""

    number: int
    step: str
    kind: str
    modes: str
    reason: str
    switches: tuple[str, ...]
    notes: tuple[str, ...]


def _switch(before: str, after: str, why: str) -> str:
    """Returns a line on a switch of modes, or on the segment of a turn that begins in the mode of the one before."""
    return why if before == after else f"{before} > {after}: {why}"


def explained(records: Iterable[CallRecord]) -> list[Explained]:
    """Returns the modes and reasons of each recorded call."""
    found = []
    for number, record in enumerate(records, start=1):
        pairs = zip(record.rounds, record.rounds[1:], strict=False)
        switches = tuple(_switch(a.mode, b.mode, b.switch) for a, b in pairs if b.switch)
        modes = dict.fromkeys(round_.mode for round_ in record.rounds)
        found.append(
            Explained(
                number=number,
                step=record.step,
                kind=record.kind,
                modes=" > ".join(modes) or str(record.options.get("mode", "")),
                reason=record.policy.reason,
                switches=switches,
                notes=record.notes,
            )
        )
    return found
