"""What a way of decoding is expected to cost: seconds a pass by its rows, and from that and acceptance, of an output.

Knows numbers only: a `CostModel` of one machine and checkpoint, a `Workload` that says what outputs of a step are like,
and `Costing`, which puts them together for any `Variant`. Does not know who measures passes or who chooses.

Outputs are counted in decisions: tokens about which the grammar left a choice. `ar` makes one decision a pass in every
schema, so decisions a pass are what drafts are worth; forced tokens ride along as rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from operator import mul
from typing import Any, Final

from trimode.engine.result import Mode

from .spec import Settings

BASE_CONTEXT: Final = 64
"""Tokens of context that a pass by its rows alone is measured behind; a shorter one counts as this."""


RUN: Final = 4.0
"""Forced tokens of one run, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Seconds of one pass: its rows, the context they see, and whether they take the draft adapter."""

    rows: int
    context: int
    adapter: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Piecewise linear through (rows, seconds), both rising; behind the last point as between the last two."""

    rows: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.rows, self.rows[1:], strict=False))
        never_falls = all(0 < a <= b for a, b in zip(self.seconds, self.seconds[1:], strict=False))
        if not (len(self.rows) == len(self.seconds) >= 2 and rising and never_falls):
            raise ValueError(f"rows {self.rows}, seconds {self.seconds}: expected two or more points that rise")

    def at(self, rows: float) -> float:
        """Seconds; fewer rows than the first point's cost as much as that."""
        x, y = self.rows, self.seconds
        if rows <= x[0]:
            return y[0]
        right = min(bisect_right(x, rows), len(x) - 1)
        return y[right - 1] + (y[right] - y[right - 1]) * (rows - x[right - 1]) / (x[right] - x[right - 1])


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a pass: a curve by rows, without and with the adapter, and what a row pays for each token it sees."""

    plain: Curve
    adapted: Curve
    per_row_token: float

    def seconds(self, rows: float, context: float = BASE_CONTEXT, adapter: bool = False) -> float:
        """`rows`: query tokens of the whole batch, each behind `context` tokens. More of either never costs less."""
        curve = self.adapted if adapter else self.plain
        return curve.at(rows) + self.per_row_token * max(rows, 1) * max(context - BASE_CONTEXT, 0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> CostModel:
        """From `as_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        plain, adapted = (Curve(*(tuple(map(float, found[name][axis])) for axis in ("rows", "seconds"))) for name in
                          ("plain", "adapted"))  # fmt: skip
        slope = float(found["per_row_token"])
        if not 0 <= slope < 1:
            raise ValueError(f"per_row_token={slope}: expected seconds")
        return cls(plain, adapted, slope)


def fit(measured: Iterable[Measurement]) -> CostModel:
    """A monotone model of passes at two or more row counts; of several of one shape the quickest counts.

    Without adapter measurements the adapter costs nothing.
    """
    best: dict[tuple[bool, int, int], float] = {}
    for one in measured:
        key = (one.adapter, one.rows, one.context)
        best[key] = min(best.get(key, one.seconds), one.seconds)
    slope = _slope(best)
    times: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for (adapter, rows, context), seconds in best.items():
        bare = max(seconds - slope * rows * max(context - BASE_CONTEXT, 0), 1e-9)
        times[adapter][rows] = min(bare, times[adapter].get(rows, bare))
    plain, adapted = times[False], times[True] or times[False]
    # The adapter is work on top, so a plain pass that was measured slower met other work.
    plain = {rows: min(seconds, adapted.get(rows, seconds)) for rows, seconds in plain.items()}
    return CostModel(_curve(plain), _curve(adapted), slope)


def _curve(times: Mapping[int, float]) -> Curve:
    points = sorted(times)
    return Curve(tuple(points), rising([times[rows] for rows in points]))


def _slope(best: Mapping[tuple[bool, int, int], float]) -> float:
    """Least squares of what more context costs at the same rows, per row and token; never negative."""
    over = under = 0.0
    for (adapter, rows, context), seconds in best.items():
        shorter = [other for other in best if other[:2] == (adapter, rows) and other[2] < context]
        if shorter:
            base = min(shorter, key=lambda other: other[2])
            work = rows * (max(context - BASE_CONTEXT, 0) - max(base[2] - BASE_CONTEXT, 0))
            over, under = over + work * (seconds - best[base]), under + work * work
    return max(over / under, 0.0) if under else 0.0


def rising(values: Sequence[float]) -> tuple[float, ...]:
    """The largest sequence below `values` that never falls: other work can make a pass slower, but none quicker."""
    return tuple(reversed(list(accumulate(reversed(values), min))))


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

    @property
    def settings(self) -> Settings:
        return Settings(mode=self.mode, block_length=self.block_length, rows=self.rows, threshold=self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What outputs of a step are like.

    decisions: of one output; forced: forced tokens a decision; acceptance: by drafting mode, the chance of each draft
    decision, from the first, to be accepted when those before it were; fill: slots that a denoise pass fills; context:
    tokens behind the prompt's start; calls: live ones in the batch, this one included, each with as many rows.
    """

    decisions: float
    forced: float = 0.0
    acceptance: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fill: float = 1.5
    context: float = BASE_CONTEXT
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one output after its first token: seconds, passes, tokens; `a_round`: decisions and seconds of one round."""

    seconds: float
    passes: float
    tokens: float
    a_round: tuple[float, float]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes


class Costing:
    """One workload on one machine; sums over acceptance are done once for all variants."""

    def __init__(self, model: CostModel, load: Workload) -> None:
        self.model, self.load = model, load
        # The prompt's pass makes the first decision in every mode, whatever comes behind.
        self.left = max(load.decisions - 1, 1.0)
        self.reached: dict[str, tuple[float, ...]] = {
            mode: (1.0, *accumulate(curve, mul)) for mode, curve in load.acceptance.items()
        }
        self.totals = {mode: (0.0, *accumulate(reached)) for mode, reached in self.reached.items()}

    def cost(self, variant: Variant) -> Cost:
        match variant.mode:
            case "ar":
                a_pass = self._pass(1 + self.load.forced)
                return self._cost(self.left, self.left * a_pass, (1.0, a_pass))
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
        seconds = self._pass(length, adapter=True) + self._pass(length)
        return self._cost(2 * cycles, cycles * seconds, (made, seconds))

    def _quadratic(self, length: int, points: int | None) -> Cost:
        """Passes with a draft and passes without one, which follow a point that was not prepared."""
        drafted = self._drafted(length - 1)
        first, made = self._made("quadratic_spec", length - 1)
        prepared = length if points is None else min(points, length)
        hit = self._hit("quadratic_spec", int(drafted), prepared)
        share = 1 / (2 - hit)
        per_pass = share * made + (1 - share)
        front = 1 + self.load.forced
        with_draft = self._pass(front + length - 1 + prepared * length, adapter=True)
        seconds = share * with_draft + (1 - share) * self._pass(front + length, adapter=True)
        passes = self._rounds(share * first + 1 - share, per_pass)
        return self._cost(passes, passes * seconds, (per_pass, seconds))

    def _diffusion(self, length: int) -> Cost:
        slots = max(length - 1, 1)
        made = slots / (1 + self.load.forced) + 1
        blocks = self._rounds(min(made, self.left), made)
        denoise = max(slots / max(self.load.fill, 1.0), 1.0)
        seconds = (denoise + 1) * self._pass(length)
        return self._cost(blocks * (denoise + 1), blocks * seconds, (made, seconds))

    def _cost(self, passes: float, seconds: float, a_round: tuple[float, float]) -> Cost:
        return Cost(seconds, passes, self.load.decisions * (1 + self.load.forced), a_round)

    def _pass(self, rows: float, adapter: bool = False) -> float:
        return self.model.seconds(self.load.calls * rows, self.load.context, adapter)

    def _made(self, mode: str, slots: float) -> tuple[float, float]:
        """Decisions of a round that drafts `slots` tokens, the verifier's own among them: in the first round, where the
        output's end may cut the draft, and where it is far."""
        drafted = self._drafted(slots)
        return self._expected(mode, min(drafted, self.left - 1)), self._expected(mode, drafted)

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
        ends = sorted((reached[at] - reached[at + 1] for at in range(last)), reverse=True)
        return min(reached[last] + sum(ends[: points - 1]), 1.0)

    def _rounds(self, first: float, made: float) -> float:
        """Rounds until the output is complete; of the last one, unless it is the first, half is wasted on average."""
        more = max(self.left - first, 0.0) / made
        return 1 + more + min(more, 1.0) * (made - 1) / (2 * made)
