"""`trimode eval`: every model step of recorded episodes, decoded in each mode from the recorded conversation.

Knows episodes, the public engine and what to count. Does not know the command line. Each step is decoded alone (batch
1); modes take turns on the same step, so that they run under the same conditions. Passes and tokens/s exclude prefill.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from trimode.policy.calls import Call, Engine, Result
from trimode.policy.errors import SchemaError, SchemaViolation
from trimode.policy.grammar import COMPLETION_TOKENS
from trimode.policy.schema import Target, schema_of, tool_schema
from trimode.policy.selection import Auto, DecodePlan, Settings, StepContext, resolve

from .episodes import Episode, Step, read_episodes

CONSTRAINED: Final = ("tool_call", "json")
"""Step kinds whose output a schema constrains."""
STRIDE: Final = 8
"""Turns that are dropped together where a prompt is too long."""
AUTO: Final = "auto"
"""Name of the mode that the policy `auto` chooses."""


@dataclass(slots=True)
class Tally:
    """Counts of one (source, mode, step kind)."""

    n: int = 0
    tokens: int = 0
    forward_passes: int = 0
    seconds: float = 0.0
    constrained: int = 0
    closed: int = 0
    valid: int = 0
    names: int = 0
    arguments: int = 0
    agree: int = 0

    def add(self, kind: str, target: str, result: Result | None, ar: Result | None) -> None:
        """Counts one step; a result of None stands for output that violates its schema."""
        self.n += 1
        if result is None:
            self.constrained += 1
            return
        stats = result.stats
        self.tokens += stats.output_tokens
        self.forward_passes += stats.forward_passes
        self.seconds += stats.seconds - stats.prefill_seconds
        self.agree += ar is not None and ar.token_ids == result.token_ids
        if kind in CONSTRAINED:
            self._add_constrained(kind, json.loads(target), result)

    def _add_constrained(self, kind: str, target: Any, result: Result) -> None:
        self.constrained += 1
        self.closed += result.forced_close
        self.valid += result.valid is True
        if result.valid is True:
            found = result.value.model_dump() if kind == "tool_call" else result.value
            self.names += kind == "tool_call" and found["name"] == target["name"]
            self.arguments += found == target


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table and of `--json`. Shares are 0..1, None where they do not apply.

    `valid`: share of schema-bound outputs that are valid; `closed`: outputs that max_tokens forced to end early.
    """

    source: str
    mode: str
    step: str
    n: int
    tokens: int
    forward_passes: int
    tpf: float | None
    tokens_per_s: float | None
    valid: float | None
    closed: int
    exact_name: float | None
    exact_args: float | None
    agree_ar: float | None

    @classmethod
    def of(cls, source: str, mode: str, step: str, tally: Tally, with_ar: bool) -> Row:
        return cls(
            source=source,
            mode=mode,
            step=step,
            n=tally.n,
            tokens=tally.tokens,
            forward_passes=tally.forward_passes,
            tpf=_share(tally.tokens, tally.forward_passes),
            tokens_per_s=_share(tally.tokens, tally.seconds),
            valid=_share(tally.valid, tally.constrained),
            closed=tally.closed,
            exact_name=_share(tally.names, tally.constrained) if step == "tool_call" else None,
            exact_args=_share(tally.arguments, tally.constrained),
            agree_ar=_share(tally.agree, tally.n) if with_ar else None,
        )


@dataclass(slots=True)
class Evaluation:
    """Tallies of one source, and the number of skipped steps by reason."""

    source: str
    modes: tuple[str, ...]
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step, results: dict[str, Result | None]) -> None:
        for mode, result in results.items():
            tally = self.tallies.setdefault((mode, step.kind), Tally())
            tally.add(step.kind, step.target, result, results.get("ar"))

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def rows(self) -> list[Row]:
        with_ar = "ar" in self.modes
        return [Row.of(self.source, mode, step, tally, with_ar) for (mode, step), tally in sorted(self.tallies.items())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of one evaluation: modes, sampling, and the limit of a prompt in tokens. `auto`: the policy for mode
    "auto"."""

    modes: tuple[str, ...]
    settings: Settings
    prompt_tokens: int
    auto: Auto | None = None


def evaluate(
    engine: Engine,
    path: Path,
    registry: Path | None,
    limit: int | None,
    plan: Plan,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Decodes every model step of the first `limit` episodes of one file."""
    found = Evaluation(path.name.removesuffix(".gz").removesuffix(".jsonl"), plan.modes)
    for episode in islice(read_episodes(path, registry), limit):
        for step in episode.steps():
            answer(engine, episode, step, plan, found)
        advance()
    return found


def answer(engine: Engine, episode: Episode, step: Step, plan: Plan, found: Evaluation) -> None:
    """Decodes one step in every mode and counts it, or counts the reason why it is skipped."""
    call = question(engine, episode, step, plan)
    if isinstance(call, str):
        return found.skip(call)
    found.add(step, {mode: attempt(engine, in_mode(call, mode, plan)) for mode in plan.modes})


def question(engine: Engine, episode: Episode, step: Step, plan: Plan) -> Call | str:
    """Returns the call for `step` in the first mode of `plan`, or the reason why it is skipped."""
    try:
        call = call_of(engine, episode, step, plan)
        ending = engine.grammars.matcher(call.schema).completion(COMPLETION_TOKENS) if call.schema else None
    except SchemaError as error:
        return type(error).__name__
    if len(engine.encode(call)) + (plan.settings.max_tokens or 0) > engine.context:
        return "prompt longer than the context"
    if len(ending or ()) > (plan.settings.max_tokens or 0):
        return "schema longer than max_tokens"
    return call


def attempt(engine: Engine, call: Call) -> Result | None:
    """Returns the result, or None where the finished output violates its schema."""
    try:
        return engine.run(call)
    except SchemaViolation:
        return None


def call_of(engine: Engine, episode: Episode, step: Step, plan: Plan) -> Call:
    """Returns the call for `step` after its recorded history, in the first mode of `plan`.

    Where the prompt is too long, the oldest turns are dropped STRIDE at a time, so that successive prompts share a
    prefix.
    """
    system = step.history[:1] if step.history and step.history[0]["role"] == "system" else ()
    turns = step.history[len(system) :]
    schema = _schema(episode, step)
    resolved = _plan(StepContext(kind=_kind(step), name=step.kind), plan.modes[0], plan)

    def since(start: int) -> Call:
        messages = (*system, *turns[start:])
        return Call(
            step=step.kind, kind=_kind(step), plan=resolved, messages=messages, tools=episode.tools, schema=schema
        )

    starts = range(0, max(len(turns), 1), STRIDE)
    fits = bisect_left(starts, True, key=lambda start: len(engine.encode(since(start))) <= plan.prompt_tokens)
    return since(starts[min(fits, len(starts) - 1)])


def in_mode(call: Call, mode: str, plan: Plan) -> Call:
    """Returns `call` in another mode."""
    digest = None if call.schema is None else call.schema.sha256
    return replace(call, plan=_plan(StepContext(kind=call.kind, name=call.step, schema_sha256=digest), mode, plan))


def _plan(context: StepContext, mode: str, plan: Plan) -> DecodePlan:
    if mode == AUTO:
        assert plan.auto is not None
        return resolve(context, (plan.auto,), [("eval", plan.settings)])
    return resolve(context, (), [("eval", Settings(mode=mode).over(plan.settings))])


def _schema(episode: Episode, step: Step) -> Target | None:
    if step.kind == "tool_call":
        return tool_schema(episode.tools)
    return None if step.schema is None else schema_of(step.schema)


def _kind(step: Step) -> Any:
    return step.kind


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def table(rows: Iterable[Row], title: str) -> Table:
    """Returns the rows as a table, shares in percent."""
    view = Table(title=title, title_justify="left")
    for name in ("source", "step", "mode"):
        view.add_column(name)
    for name in ("n", "tokens", "TPF", "tok/s", "valid", "closed", "name", "args", "= ar"):
        view.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (row.source, row.step, row.mode)):
        shares = [_percent(x) for x in (row.exact_name, row.exact_args, row.agree_ar)]
        counts = [str(row.n), f"{row.tokens:,}", _number(row.tpf, 2), _number(row.tokens_per_s, 0)]
        view.add_row(row.source, row.step, row.mode, *counts, _percent(row.valid), str(row.closed), *shares)
    return view


def as_json(rows: Iterable[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=1)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
