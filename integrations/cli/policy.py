"""`trimode policy show | explain | tune | compare | lock`: what policies choose, why calls ran as they did, and what
if.

Knows typer, audit files and tables. Does not draw (`policy_plots.py`) or predict (`policy/replay/what_if.py`).
Predicted numbers are labelled as derived.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from . import policy_checks as checks_view
from . import policy_plots as plots
from .console import AsJson, Checkpoint, console

if TYPE_CHECKING:
    from trimode.policy.audit import CallRecord
    from trimode.policy.calls import Engine
    from trimode.policy.replay import Row
    from trimode.policy.selection import Auto, CostModel, Policy, Weights

policy_app: typer.Typer = typer.Typer(
    no_args_is_help=True, help="What policies do: show, explain, tune, compare, lock."
)

Audit = Annotated[Path, typer.Argument(help="An audit file.", exists=True, dir_okay=False)]
Checking = Annotated[bool, typer.Option(help="Check predictions by decoding held-out calls again.")]
NOT_ASKED = "--no-check"
Plot = Annotated[Path | None, typer.Option(help="Also draw it as PNG here; needs the extra `plots`.")]


@policy_app.command()
def show(
    plot: Plot = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Prints the cost of a pass here, and the expected speed of every variant for each step kind, as learned so far."""
    from trimode.policy.calls import Engine

    engine = Engine.load(checkpoint)
    found = expected(engine)
    if plot is not None:
        plots.expected(plot, engine.cost, found)
    if as_json:
        print(json.dumps({"cost": engine.cost.as_dict(), "derived": found, "explored": explored(engine.auto)}))
        return
    console.print(cost_table(engine.cost))
    view = _table("expected, by the cost model and what was learned (derived)", "step kind", "variant")
    _numbers(view, "tokens/s", "passes", "calls seen")
    for row in found:
        cells = f"{row['tokens_per_s']:.0f}", f"{row['passes']:.1f}", f"{row['calls']:.0f}"
        view.add_row(row["kind"], row["variant"], *cells)
    console.print(view)
    regret = explored(engine.auto)
    line = f"trying out cost {regret['seconds']:.3f} s of {regret['of']:.3f} s by expectation ({regret['share']:.2%})"
    console.print(line, highlight=False)


@policy_app.command()
def explain(audit: Audit, as_json: AsJson = False) -> None:
    """Prints why each recorded call got its mode, and where and why the mode changed."""
    from trimode.policy.replay import explained

    found = explained(_records(audit))
    if as_json:
        print(json.dumps([asdict(row) for row in found], ensure_ascii=False))
        return
    view = _table(audit.name, "#", "step", "kind", "modes", "why")
    for row in found:
        why = "\n".join((row.reason, *row.switches, *row.notes))
        view.add_row(*(Text(cell) for cell in (str(row.number), row.step, row.kind, row.modes, why)))
    console.print(view)


@policy_app.command()
def tune(
    audit: Audit,
    out: Annotated[Path, typer.Option("--out", "-o", help="The policy file to write.")],
    name: Annotated[str, typer.Option(help="The policy's name.")] = "tuned",
    plot: Plot = None,
    checkpoint: Checkpoint = None,
    check: Checking = True,
) -> None:
    """Writes the best fixed table for recorded calls, by this machine's cost model: exact modes only, no exploration.

    With --check it is made from half of each step's calls; the others are decoded again under it and under ar. A mode
    that is slower than ar there is not written.

    The plots show recorded numbers: acceptance by draft position, tokens/s by mode, quality by threshold.
    """
    from trimode.policy.replay import Tuned, tuned, tuned_and_checked

    records = _records(audit)
    engine = _engine(records, checkpoint)
    if check:
        found = tuned_and_checked(records, engine, name)
    else:
        found = Tuned(policy=tuned(records, engine.cost, name, engine.weights), checks={}, unchecked=NOT_ASKED)
    policy = found.policy
    out.write_text(policy.to_toml(), encoding="utf-8")
    if plot is not None:
        plots.recorded(plot, records)
    checks_view.show(console, found.checks, found.unchecked)
    for step in found.refuted:
        console.print(f"refuted for {step}: what was predicted is slower than ar; ar is written", highlight=False)
    console.print(f"written: {out} ({len(policy.steps)} steps, sha256 {policy.sha256[:16]})", highlight=False)


@policy_app.command()
def compare(
    audit: Audit,
    policy: Annotated[
        list[str], typer.Option("--policy", help="A policy file, or `auto` as learned here; several may be given.")
    ],
    checkpoint: Checkpoint = None,
    check: Checking = True,
    as_json: AsJson = False,
) -> None:
    """Compares recorded calls with what other policies are expected to do: their rows are derived, not decoded.

    With --check, predictions made from half of each step's calls are compared with decoding the others again.
    """
    from trimode.policy.replay import checked, compared

    records = _records(audit)
    engine = _engine(records, checkpoint)
    policies = [policy_of(given, engine) for given in policy]
    checks, why = checked(records, policies, engine) if check else ({}, NOT_ASKED)
    rows = compared(records, policies, engine.cost, engine.weights, checks)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    console.print(rows_table("rows of policies are derived: predicted, not decoded", rows))
    checks_view.show(console, checks, why)


@policy_app.command()
def lock(
    policy: Annotated[str, typer.Argument(help="A policy file, or `auto`: what it would choose now.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The lock file.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where the file differs.")] = False,
    checkpoint: Checkpoint = None,
) -> None:
    """Writes every setting of a policy for every step kind as a policy file; or checks such a file.

    With --checkpoint, kinds for which the policy names no mode get one that these weights have.
    """
    from trimode.policy.calls import Engine
    from trimode.policy.selection import lock_text, moved

    found = policy_of(policy, Engine.load(checkpoint) if policy == "auto" else None)
    weights = _weights(checkpoint)
    if not check:
        out.write_text(lock_text(found, weights), encoding="utf-8")
        console.print(f"written: {out} (policy {found.name!r}, sha256 {found.sha256[:16]})", highlight=False)
        return
    lines = moved(found, out.read_text(encoding="utf-8"), weights)
    if not lines:
        console.print(f"{out}: as policy {found.name!r} is now, sha256 {found.sha256[:16]}", highlight=False)
        return
    print("\n".join(lines))
    print(f"{out}: policy {found.name!r} has moved; lock it again without --check if it should", file=sys.stderr)
    raise typer.Exit(1)


def expected(engine: Engine) -> list[dict[str, Any]]:
    """Returns the expected cost of every exact variant for each step kind, with one call at a time."""
    from trimode.policy.selection import STEP_KINDS, Settings, StepContext

    auto, rows = engine.auto, []
    for kind in STEP_KINDS:
        seen = auto.learned.evidence.get(f"kind {kind}")
        for variant, cost in auto.table(StepContext(kind=kind, name=""), Settings(temperature=0.0)):
            rows.append(
                {
                    "kind": kind,
                    "variant": str(variant),
                    "tokens_per_s": cost.tokens_per_s,
                    "passes": cost.passes,
                    "calls": 0.0 if seen is None else seen.calls,
                }
            )
    return rows


def rows_table(title: str, rows: Sequence[Row]) -> Table:
    """Returns a table of steps under policies, with a column "same tokens" where calls were decoded again."""
    view = _table(title, "step", "policy", "", "mode")
    again = any(row.same is not None for row in rows)
    _numbers(view, "calls", "passes/call", "tokens/s", "accepted", *(["same tokens"] if again else []))
    for row in rows:
        cells = (
            row.step,
            row.policy,
            "derived" if row.derived else "recorded" if row.same is None else "decoded",
            row.mode,
        )
        speed = "" if row.tokens_per_s is None else f"{row.tokens_per_s:.0f}"
        share = "" if row.accepted is None else f"{100 * row.accepted:.0f} %"
        same = ["" if row.same is None else str(row.same)] if again else []
        view.add_row(*(Text(cell) for cell in cells), str(row.calls), f"{row.passes:.1f}", speed, share, *same)
    return view


def explored(auto: Auto) -> dict[str, float]:
    """Returns the expected regret so far: seconds that exploring cost, and of how many seconds of decoding."""
    spent, total = auto.learned.spent, auto.learned.total
    return {"seconds": spent, "of": total, "share": spent / total if total else 0.0}


def cost_table(cost: CostModel) -> Table:
    """Returns a table of milliseconds of a pass by its rows."""
    own = f"{1e3 * cost.per_pass:.2f} of it the engine's own, {1e3 * cost.per_call:.2f} more for each further call"
    view = _table(f"a pass, in milliseconds (measured once, then kept); {own}", "rows")
    _numbers(view, "base weights", "with the draft adapter", "per 1,000 tokens of context")
    for rows in cost.plain.rows:
        longer = 1e6 * cost.per_row_token * rows
        times = [f"{1e3 * cost.seconds(rows, adapter=adapter):.2f}" for adapter in (False, True)]
        view.add_row(f"{rows:.0f}", *times, f"{longer:.2f}")
    return view


def _records(path: Path) -> list[CallRecord]:
    from trimode.policy.audit import read_audit, records

    lines = read_audit(path)
    for line in lines:
        if line.entry is None:
            print(f"line {line.number} cannot be read: {line.problem}", file=sys.stderr)
    return records(lines)


def policy_of(given: str, engine: Engine | None) -> Policy:
    """Returns the policy of a file, or for `auto` what it would choose now on `engine`."""
    from trimode.policy.selection import Policy

    return engine.auto.lock("auto") if given == "auto" and engine else Policy.from_toml(Path(given))


def _weights(checkpoint: str | None) -> Weights:
    """Returns the modes of a checkpoint; every mode where none is given. The cost of passes here is left out, because
    a lock file is for any machine."""
    from trimode.policy.calls import Engine
    from trimode.policy.selection import ANY_WEIGHTS

    return ANY_WEIGHTS if checkpoint is None else replace(Engine.load(checkpoint).weights, cost=None)


def _engine(records: Iterable[CallRecord], checkpoint: str | None) -> Engine:
    """Returns the engine that knows this machine's cost model; prints a note where records are of other weights."""
    from trimode.policy.calls import Engine

    engine = Engine.load(checkpoint)
    if {record.runtime.model_sha256 for record in records} - {engine.runtime.model_sha256}:
        print(f"note: some calls were recorded with other weights than {engine.checkpoint.name}", file=sys.stderr)
    return engine


def _table(title: str, *columns: str) -> Table:
    view = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    return view


def _numbers(view: Table, *columns: str) -> None:
    for column in columns:
        view.add_column(column, justify="right", no_wrap=True, min_width=len(column))
