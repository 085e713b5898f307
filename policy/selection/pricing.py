"""The expected cost of a variant (a mode with its options): seconds, and share of passes, of one output of a step.

Knows numbers only: a `Workload` describes the outputs of a step and the calls that share their passes; `Costing`
combines it with a machine's `CostModel` for any `Variant`. Does not know who chooses.

Outputs are counted in decisions, which are the unforced tokens: those for which the grammar allows more than one. `ar`
makes one decision a pass under every schema, so decisions a pass measure what drafts are worth; forced tokens are
further rows of the same pass.

A pass that other calls share has two numbers. Its seconds are how long the call waits for it. Its price is the call's
share: what its rows add to a pass with the others' rows in it, and an equal part of the remainder. The least price
gives the batch the most decisions a second; the least seconds would let each call delay all others by its drafts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul
from typing import Final, NamedTuple

from .cost_model import BASE_CONTEXT, CostModel
from .variants import LENGTHS, Variant

Pair = tuple[float, float]
RUN: Final = 4.0
"""Forced tokens in one run of consecutive ones, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Expected numbers of a step's outputs.

    decisions: unforced tokens of one output; forced: forced tokens for each decision; acceptance: by drafting mode, the
    probability of each draft decision, from the first, to be accepted when those before it were; trials: observations
    of each of these probabilities; fill: slots that one denoise pass fills; match: part of the rounds of lookup_spec
    that find something to copy; copies: tokens after which a copied draft ends by itself; context: tokens that a row
    attends to; calls: running calls in the batch, this one included; rows_of_others: rows that each other call brings
    to a pass.
    """

    decisions: float
    forced: float = 0.0
    acceptance: Mapping[str, Sequence[float]] = field(default_factory=dict)
    trials: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fill: float = 1.5
    match: float = 1.0
    copies: float = math.inf
    context: float = BASE_CONTEXT
    calls: int = 1
    rows_of_others: float = 1.0

    def sampled(self, z_scores: Mapping[str, float]) -> Workload:
        """Returns a workload with `z_scores[mode]` standard errors added to each acceptance of the mode."""
        curves = dict(self.acceptance)
        for mode in curves.keys() & z_scores.keys():
            pairs, by = zip(curves[mode], self.trials[mode], strict=True), z_scores[mode]
            curves[mode] = [
                min(max(chance + by * math.sqrt(max(chance * (1 - chance), 0.0) / (tried + 1)), 0.0), 1.0)
                for chance, tried in pairs
            ]
        return replace(self, acceptance=curves)

    def at_best(self) -> Workload:
        """Returns a workload with a draft in every round, all of them accepted, and every block filled in one pass."""
        return replace(
            self, acceptance=dict.fromkeys(self.acceptance, CERTAIN), fill=math.inf, match=1.0, copies=math.inf
        )


CERTAIN: Final = (1.0,) * 256


class Cost(NamedTuple):
    """The cost of one output after its first token: seconds, its share of shared passes (`price`, seconds), passes,
    tokens.

    `a_round`: decisions and price of one round; of one with a draft in lookup_spec, whose others are those of ar.
    """

    seconds: float
    price: float
    passes: float
    tokens: float
    a_round: tuple[float, float]

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of this call alone; `tokens / price` is the whole batch's speed by this call's share."""
        return self.tokens / self.seconds

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes


class Passes:
    """Computes seconds and price of a pass by the rows that a call of one workload brings to it, each only once.

    `exact_first`, `longest`: how the weights draft, as `CostModel` has them.
    """

    exact_first: bool
    longest: int | None

    def __init__(self, model: CostModel, load: Workload) -> None:
        self.exact_first, self.longest = model.exact_first, model.longest
        self._curves = model.plain, model.adapted
        self._a_row = model.per_row_token * max(load.context - BASE_CONTEXT, 0)
        self._calls = model.per_call * (load.calls - 1) + model.per_pass
        self._rest = (load.calls - 1) * load.rows_of_others
        self._found: dict[tuple[float, bool], Pair] = {}
        self._without, typical = self._seconds(self._rest), self._seconds(self._rest + load.rows_of_others)
        self._equal = max(typical / load.calls - (typical - self._without), 0.0)

    def __call__(self, rows: float, adapter: bool = False) -> Pair:
        found = self._found.get((rows, adapter))
        if found is None:
            whole = price = self._seconds(self._rest + rows, adapter)
            if self._rest:
                # Next to long drafts the equal part may be zero, and few rows add little: a row's share is the minimum.
                price = max(whole - self._without + self._equal, whole / (self._rest + rows))
            self._found[rows, adapter] = found = (whole, price)
        return found

    def _seconds(self, rows: float, adapter: bool = False) -> float:
        """Returns `CostModel.seconds` for this workload's fixed context and number of calls."""
        return self._curves[adapter].at(rows) + self._a_row * (rows if rows > 1 else 1) + self._calls


class Costing:
    """Computes the cost of variants for one workload; the sums over acceptance are shared by all variants.

    `passes`: of this workload, or of one that differs in acceptance only; `slow`: factor of slowdown by mode.
    """

    load: Workload
    remaining: float
    reached: dict[str, tuple[float, ...]]
    totals: dict[str, tuple[float, ...]]

    def __init__(self, passes: Passes, load: Workload, slow: Mapping[str, float] | None = None) -> None:
        self.load, self._pass, self._slow = load, passes, slow or {}
        # Without the first decision, which the prompt's pass makes in every mode.
        self.remaining = max(load.decisions - 1, 1.0)
        sums = {mode: _EVERY if curve is CERTAIN else _sums(curve) for mode, curve in load.acceptance.items()}
        self.reached = {mode: reached for mode, (reached, _) in sums.items()}
        self.totals = {mode: totals for mode, (_, totals) in sums.items()}

    def cost(self, variant: Variant) -> Cost:
        match variant.mode:
            case "ar":
                a_pass = self._pass(1 + self.load.forced)
                return self._cost("ar", self.remaining, self.remaining, a_pass, 1.0)
            case "linear_spec":
                exact_first = self._pass.exact_first if variant.exact_first is None else variant.exact_first
                return (
                    self._decided_first(self._length(variant)) if exact_first else self._linear(self._length(variant))
                )
            case "quadratic_spec":
                return self._quadratic(self._length(variant), variant.rows)
            case "lookup_spec":
                return self._lookup(variant.block_length or LENGTHS["lookup_spec"])
            case "diffusion":
                return self._diffusion(variant.block_length or 32)

    def accepted(self, variant: Variant) -> float | None:
        """Returns the expected share of a draft's decisions that is accepted; None for modes that verify no drafts.

        A draft longer than the output ends with it, because drafting stops at an end token.
        """
        if variant.mode not in self.totals:
            return None
        drafted = self._drafted(self._length(variant) - 1)
        return (self._expected(variant.mode, drafted) - 1) / min(drafted, len(self.totals[variant.mode]) - 2)

    def _length(self, variant: Variant) -> int:
        """Returns the block length of a variant that drafts."""
        length, longest = LENGTHS[variant.mode], self._pass.longest
        return variant.block_length or (length if longest is None else min(length, longest))

    def _decided_first(self, length: int) -> Cost:
        """Prices `linear_spec` with `exact_first`: each cycle makes one decision more; the prompt's pass drafts for the
        first one."""
        first, later = (decisions + 1 for decisions in self._decisions("linear_spec", length - 1))
        cycles = self._rounds(first, later, self.remaining + 1)
        draft, check = self._pass(1 + self.load.forced + length, True), self._pass(length)
        a_cycle = _sum(draft, check)
        return self._cost("linear_spec", 2 * cycles - 1, cycles - draft[0] / a_cycle[0], a_cycle, later)

    def _linear(self, length: int) -> Cost:
        first, later = self._decisions("linear_spec", length - 1)
        cycles = self._rounds(first, later)
        a_cycle = _sum(self._pass(length, True), self._pass(length))
        return self._cost("linear_spec", 2 * cycles, cycles, a_cycle, later)

    def _quadratic(self, length: int, points: int | None) -> Cost:
        """Averages passes with a draft and passes without one; the latter follow where verification ended at a point
        for which no draft had been prepared."""
        first, later = self._decisions("quadratic_spec", length - 1)
        prepared = length if points is None else min(points, length)
        hit = self._hit("quadratic_spec", int(self._drafted(length - 1)), prepared)
        share = 1 / (2 - hit)
        per_pass = share * later + (1 - share)
        front = 1 + self.load.forced
        drafting = self._pass(front + length - 1 + prepared * length, True)
        bare = self._pass(front + length, True)
        passes = self._rounds(share * first + 1 - share, per_pass)
        return self._cost("quadratic_spec", passes, passes, _mixed(share, drafting, bare), per_pass)

    def _lookup(self, length: int) -> Cost:
        """Averages passes with a draft and passes of `ar`, where nothing to copy is found."""
        first, later = self._decisions("lookup_spec", length - 1)
        match, front = self.load.match, 1 + self.load.forced
        drafting, bare = self._pass(front + min(self._copied(length - 1) * front, length - 1)), self._pass(front)
        passes = self._rounds(match * first + 1 - match, match * later + 1 - match)
        cost = self._cost("lookup_spec", passes, passes, _mixed(match, drafting, bare), later)
        return cost._replace(a_round=(later, drafting[1] * self._slow.get("lookup_spec", 1.0)))

    def _diffusion(self, length: int) -> Cost:
        slots = max(length - 1, 1)
        decisions = slots / (1 + self.load.forced) + 1
        blocks = self._rounds(min(decisions, self.remaining), decisions)
        passes = max(slots / max(self.load.fill, 1.0), 1.0) + 1
        seconds, price = self._pass(length)
        return self._cost("diffusion", blocks * passes, blocks, (passes * seconds, passes * price), decisions)

    def _cost(self, mode: str, passes: float, rounds: float, a_round: Pair, decisions: float) -> Cost:
        slow = self._slow.get(mode, 1.0)
        seconds, price = a_round[0] * slow, a_round[1] * slow
        tokens = self.load.decisions * (1 + self.load.forced)
        return Cost(rounds * seconds, rounds * price, passes, tokens, (decisions, price))

    def _decisions(self, mode: str, slots: float) -> Pair:
        """Returns the expected decisions of a round that drafts `slots` tokens, the verifier's own token included: of a
        first round whose draft the output's end may cut short, and of a round far from the end."""
        drafted = self._drafted(slots)
        far = self._expected(mode, drafted)
        return (self._expected(mode, self.remaining - 1) if drafted > self.remaining - 1 else far), far

    def _copied(self, slots: int) -> float:
        """Returns the expected tokens of a copied draft of at most `slots`, which ends after each with one chance."""
        goes_on = 1 - 1 / max(self.load.copies, 1.0)
        return slots if goes_on == 1 else (1 - goes_on**slots) / (1 - goes_on)

    def _drafted(self, slots: float) -> float:
        """Returns the decisions among `slots` drafted tokens. Short drafts contain fewer forced tokens, because these
        come in runs."""
        return slots / (1 + self.load.forced * slots / (slots + RUN))

    def _expected(self, mode: str, drafted: float) -> float:
        """Returns the expected decisions of a round with `drafted` draft decisions, interpolated between whole ones."""
        totals = self.totals.get(mode, (0.0, 1.0))
        drafted = min(drafted, len(totals) - 2)
        whole = int(drafted)
        part = drafted - whole
        return totals[whole + 1] + (part * (totals[whole + 2] - totals[whole + 1]) if part else 0.0)

    def _hit(self, mode: str, drafted: int, points: int) -> float:
        """Returns the probability that acceptance ends at one of the `points` likeliest positions; the end of a fully
        accepted draft is one of them."""
        reached = self.reached.get(mode, (1.0,))
        last = min(drafted, len(reached) - 1)
        if points > last:
            return 1.0
        if points == 1:
            return reached[last]
        ends = sorted((reached[at] - reached[at + 1] for at in range(last)), reverse=True)
        return min(reached[last] + sum(ends[: points - 1]), 1.0)

    def _rounds(self, first: float, later: float, decisions: float | None = None) -> float:
        """Returns the rounds until the output is complete, by the decisions of the first and of each later round; half
        of the last round, unless it is the first, is wasted on average. `decisions`: all, if not those remaining."""
        more = max((self.remaining if decisions is None else decisions) - first, 0.0) / later
        return 1 + more + min(more, 1.0) * (later - 1) / (2 * later)


def _sums(curve: Iterable[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the probability that acceptance reaches each draft position, and the decisions expected up to there."""
    reached = (1.0, *accumulate(curve, mul))
    return reached, (0.0, *accumulate(reached))


_EVERY: Final = _sums(CERTAIN)


def _mixed(share: float, one: Pair, other: Pair) -> Pair:
    return share * one[0] + (1 - share) * other[0], share * one[1] + (1 - share) * other[1]


def _sum(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]
