"""What a way of decoding is expected to cost: seconds, and the share of passes, of one output of a step.

Knows numbers only: a `Workload` that says what outputs of a step are like and who shares their passes, and `Costing`,
which puts it and a machine's `CostModel` together for any `Variant`. Does not know who chooses.

Outputs are counted in decisions: tokens about which the grammar left a choice. `ar` makes one decision a pass in every
schema, so decisions a pass are what drafts are worth; forced tokens ride along as rows.

A pass that other calls share has two numbers. Its seconds are what the call waits for it. Its price is the call's
share: what its rows add to a pass with the others' rows in it, and an equal part of what is left. The least price gives
the batch the most decisions a second; the least seconds would have each call make all others wait for its drafts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul
from typing import Final, NamedTuple

from trimode.engine.result import Mode

from .cost_model import BASE_CONTEXT, CostModel
from .settings import Settings

Pair = tuple[float, float]
RUN: Final = 4.0
"""Forced tokens of one run, about."""
ADAPTED: Final[Mapping[Mode, float]] = {"linear_spec": 0.5, "quadratic_spec": 1.0}
"""Of the passes of a mode, those that take the draft adapter; in other modes, none."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its knobs, as a policy weighs it; None where the mode has no such knob, or for its own default."""

    mode: Mode
    block_length: int | None = None
    rows: int | None = None
    threshold: float | None = None

    def __str__(self) -> str:
        knobs = (self.block_length, self.rows)
        words = [self.mode, *(str(knob) for knob in knobs if knob is not None)]
        return ":".join(words) + ("" if self.threshold is None else f"@{self.threshold:g}")

    @classmethod
    def of(cls, mode: Mode, said: Settings) -> Variant:
        """A mode with the knobs that it has, of those that were said."""
        match mode:
            case "ar":
                return cls("ar")
            case "quadratic_spec":
                return cls("quadratic_spec", said.block_length, said.rows)
            case _:
                return cls(mode, said.block_length)

    @property
    def settings(self) -> Settings:
        return Settings(mode=self.mode, block_length=self.block_length, rows=self.rows, threshold=self.threshold)


AR: Final = Variant("ar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What outputs of a step are like.

    decisions: of one output; forced: forced tokens a decision; acceptance: by drafting mode, the chance of each draft
    decision, from the first, to be accepted when those before it were; trials: how many stand behind each of these
    chances; fill: slots that a denoise pass fills; context: tokens behind the prompt's start; calls: live ones in the
    batch, this one included; theirs: rows that each of the others brings to a pass.
    """

    decisions: float
    forced: float = 0.0
    acceptance: Mapping[str, Sequence[float]] = field(default_factory=dict)
    trials: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fill: float = 1.5
    context: float = BASE_CONTEXT
    calls: int = 1
    theirs: float = 1.0

    def drawn(self, luck: Mapping[str, float]) -> Workload:
        """The same with as many standard errors added to each chance of a mode."""
        curves = dict(self.acceptance)
        for mode in curves.keys() & luck.keys():
            pairs, by = zip(curves[mode], self.trials[mode], strict=True), luck[mode]
            curves[mode] = [
                min(max(chance + by * math.sqrt(max(chance * (1 - chance), 0.0) / (tried + 1)), 0.0), 1.0)
                for chance, tried in pairs
            ]
        return replace(self, acceptance=curves)

    def at_best(self) -> Workload:
        """The same with every draft accepted and every block filled at once."""
        return replace(self, acceptance=dict.fromkeys(self.acceptance, CERTAIN), fill=math.inf)


CERTAIN: Final = (1.0,) * 256


class Cost(NamedTuple):
    """Of one output after its first token: seconds, its share of passes in seconds (`price`), passes, tokens.

    `a_round`: decisions and price of one round.
    """

    seconds: float
    price: float
    passes: float
    tokens: float
    a_round: tuple[float, float]

    @property
    def tokens_per_s(self) -> float:
        """As this call sees it; `tokens / price` is what the whole batch gets out of its share."""
        return self.tokens / self.seconds

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes


class Passes:
    """Seconds and price of a pass to which a call of one workload brings some rows; each is computed once."""

    def __init__(self, model: CostModel, load: Workload) -> None:
        self._curves = model.plain, model.adapted
        self._a_row = model.per_row_token * max(load.context - BASE_CONTEXT, 0)
        self._calls = model.per_call * (load.calls - 1) + model.per_pass
        self._rest = (load.calls - 1) * load.theirs
        self._found: dict[tuple[float, bool], Pair] = {}
        self._without, typical = self._seconds(self._rest), self._seconds(self._rest + load.theirs)
        self._equal = max(typical / load.calls - (typical - self._without), 0.0)

    def __call__(self, rows: float, adapter: bool = False) -> Pair:
        found = self._found.get((rows, adapter))
        if found is None:
            whole = price = self._seconds(self._rest + rows, adapter)
            if self._rest:
                # Beside long drafts the equal part may be nothing and few rows add little; a row's share is the least.
                price = max(whole - self._without + self._equal, whole / (self._rest + rows))
            self._found[rows, adapter] = found = (whole, price)
        return found

    def _seconds(self, rows: float, adapter: bool = False) -> float:
        """`CostModel.seconds`, where context and calls are always the same."""
        return self._curves[adapter].at(rows) + self._a_row * (rows if rows > 1 else 1) + self._calls


class Costing:
    """One workload; sums over acceptance are done once for all variants.

    `passes`: of this workload, or of one that differs in acceptance alone; `slow`: by mode, how much slower it runs.
    """

    def __init__(self, passes: Passes, load: Workload, slow: Mapping[str, float] | None = None) -> None:
        self.load, self._pass, self._slow = load, passes, slow or {}
        # The prompt's pass makes the first decision in every mode, whatever comes behind.
        self.left = max(load.decisions - 1, 1.0)
        sums = {mode: _EVERY if curve is CERTAIN else _sums(curve) for mode, curve in load.acceptance.items()}
        self.reached = {mode: reached for mode, (reached, _) in sums.items()}
        self.totals = {mode: totals for mode, (_, totals) in sums.items()}

    def cost(self, variant: Variant) -> Cost:
        match variant.mode:
            case "ar":
                a_pass = self._pass(1 + self.load.forced)
                return self._cost("ar", self.left, self.left, a_pass, 1.0)
            case "linear_spec":
                return self._linear(variant.block_length or 32)
            case "quadratic_spec":
                return self._quadratic(variant.block_length or 16, variant.rows)
            case "diffusion":
                return self._diffusion(variant.block_length or 32)

    def accepted(self, variant: Variant) -> float | None:
        """The share of a whole draft's decisions that is accepted; None for modes without drafts to verify."""
        if variant.mode not in self.totals or not variant.block_length:
            return None
        drafted = self._drafted(variant.block_length - 1)
        return (self._expected(variant.mode, drafted) - 1) / min(drafted, len(self.totals[variant.mode]) - 2)

    def _linear(self, length: int) -> Cost:
        first, made = self._made("linear_spec", length - 1)
        cycles = self._rounds(first, made)
        a_cycle = _sum(self._pass(length, True), self._pass(length))
        return self._cost("linear_spec", 2 * cycles, cycles, a_cycle, made)

    def _quadratic(self, length: int, points: int | None) -> Cost:
        """Passes with a draft and passes without one, which follow a point that was not prepared."""
        first, made = self._made("quadratic_spec", length - 1)
        prepared = length if points is None else min(points, length)
        hit = self._hit("quadratic_spec", int(self._drafted(length - 1)), prepared)
        share = 1 / (2 - hit)
        per_pass = share * made + (1 - share)
        front = 1 + self.load.forced
        drafting = self._pass(front + length - 1 + prepared * length, True)
        bare = self._pass(front + length, True)
        a_pass = (share * drafting[0] + (1 - share) * bare[0], share * drafting[1] + (1 - share) * bare[1])
        passes = self._rounds(share * first + 1 - share, per_pass)
        return self._cost("quadratic_spec", passes, passes, a_pass, per_pass)

    def _diffusion(self, length: int) -> Cost:
        slots = max(length - 1, 1)
        made = slots / (1 + self.load.forced) + 1
        blocks = self._rounds(min(made, self.left), made)
        passes = max(slots / max(self.load.fill, 1.0), 1.0) + 1
        seconds, price = self._pass(length)
        return self._cost("diffusion", blocks * passes, blocks, (passes * seconds, passes * price), made)

    def _cost(self, mode: str, passes: float, rounds: float, a_round: Pair, made: float) -> Cost:
        slow = self._slow.get(mode, 1.0)
        seconds, price = a_round[0] * slow, a_round[1] * slow
        tokens = self.load.decisions * (1 + self.load.forced)
        return Cost(rounds * seconds, rounds * price, passes, tokens, (made, price))

    def _made(self, mode: str, slots: float) -> Pair:
        """Decisions of a round that drafts `slots` tokens, the verifier's own among them: in the first round, where the
        output's end may cut the draft, and where it is far."""
        drafted = self._drafted(slots)
        far = self._expected(mode, drafted)
        return (self._expected(mode, self.left - 1) if drafted > self.left - 1 else far), far

    def _drafted(self, slots: float) -> float:
        """Decisions among the tokens of a draft. Forced tokens come in runs, so short drafts hold fewer of them."""
        return slots / (1 + self.load.forced * slots / (slots + RUN))

    def _expected(self, mode: str, drafted: float) -> float:
        totals = self.totals.get(mode, (0.0, 1.0))
        drafted = min(drafted, len(totals) - 2)
        whole = int(drafted)
        part = drafted - whole
        return totals[whole + 1] + (part * (totals[whole + 2] - totals[whole + 1]) if part else 0.0)

    def _hit(self, mode: str, drafted: int, points: int) -> float:
        """The chance that the place where a draft ends is among the `points` likeliest ones, its whole length one."""
        reached = self.reached.get(mode, (1.0,))
        last = min(drafted, len(reached) - 1)
        if points > last:
            return 1.0
        if points == 1:
            return reached[last]
        ends = sorted((reached[at] - reached[at + 1] for at in range(last)), reverse=True)
        return min(reached[last] + sum(ends[: points - 1]), 1.0)

    def _rounds(self, first: float, made: float) -> float:
        """Rounds until the output is complete; of the last one, unless it is the first, half is wasted on average."""
        more = max(self.left - first, 0.0) / made
        return 1 + more + min(more, 1.0) * (made - 1) / (2 * made)


def _sums(curve: Iterable[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The chance to reach each place of a draft, and the decisions that a draft up to there is expected to make."""
    reached = (1.0, *accumulate(curve, mul))
    return reached, (0.0, *accumulate(reached))


_EVERY: Final = _sums(CERTAIN)


def _sum(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]
