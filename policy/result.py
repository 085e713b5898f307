"""What a caller gets back from one call: text, value, how it was decoded, and every word about shortcuts.

Knows the engine's result and the plan behind it. Does not know spans or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimode.engine.request import DecodeResult, FinishReason, Round, Stats

from .resolve import DecodePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`value`: parsed output under a schema, else None. `valid`: the oracle's verdict; None without schema or when cut.

    `notes` says each thing that did not go as plainly asked (a cut, a missing draft adapter, ...).
    """

    text: str
    value: Any
    valid: bool | None
    decoded: DecodeResult
    plan: DecodePlan
    audit_id: str
    notes: tuple[str, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Output ids, the end token included."""
        return self.decoded.token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.decoded.finish_reason

    @property
    def stats(self) -> Stats:
        return self.decoded.stats

    @property
    def trace(self) -> tuple[Round, ...]:
        """Rounds in order: what each pass, cycle or block proposed and kept."""
        return self.decoded.rounds
