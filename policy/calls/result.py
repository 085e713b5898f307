"""What a caller gets back from one call: text, value, how it was decoded, and every word about shortcuts.

Knows the engine's result and the plan behind it. Does not know spans or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

from trimode.engine.result import DecodeResult, FinishReason, Round, Stats

from ..errors import Attempt
from ..selection import DecodePlan, Guarantee


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`value`: parsed output under a schema, else None. `valid`: the oracle's verdict; None without schema or when cut.

    `text` is everything; with a thinking budget, `thinking` and `answer` are its parts, the marker left out.
    `notes` says each thing that did not go as plainly asked (a cut, a missing draft adapter, ...). `guarantee`: how the
    schema was held, "grammar" in full, "checked" in part and the rest looked at afterwards; None without a schema.
    `failed`: attempts before this one, under "checked". `choice`: of a choice, the scores of all candidates.
    """

    text: str
    thinking: str | None
    answer: str
    value: Any
    valid: bool | None
    decoded: DecodeResult
    plan: DecodePlan
    audit_id: str
    notes: tuple[str, ...] = ()
    guarantee: Guarantee | None = None
    choice: ScoredChoice | None = None
    failed: tuple[Attempt, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Output ids, the end token included."""
        return self.decoded.token_ids

    @property
    def seed(self) -> int:
        """Of the attempt that this is: the one asked for, or under "checked" a later one."""
        return self.plan.settings.seed or 0

    @property
    def finish_reason(self) -> FinishReason:
        return self.decoded.finish_reason

    @property
    def stats(self) -> Stats:
        return self.decoded.stats

    @property
    def forced_close(self) -> bool:
        """Whether schema-bound output was ended for the budget's sake, before the model would have ended it."""
        return self.decoded.forced_close

    @property
    def trace(self) -> tuple[Round, ...]:
        """Rounds in order: what each pass, cycle or block proposed and kept."""
        return self.decoded.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChoice:
    """`logprobs`, in nats: that the model at temperature 1 writes exactly this option and ends. In the given order."""

    options: tuple[str, ...]
    logprobs: tuple[float, ...]
    stats: Stats

    @property
    def text(self) -> str:
        """The likeliest option; the first of equals."""
        return self.options[self.logprobs.index(max(self.logprobs))]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The options' probabilities, given that it is one of them."""
        top = max(self.logprobs)
        weights = [exp(logprob - top) for logprob in self.logprobs]
        return tuple(weight / sum(weights) for weight in weights)
