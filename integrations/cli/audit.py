"""`trimode audit show | verify | head | replay | diff`: audit trails on the command line.

Knows typer and what each command prints. Does not know how trails are read or verified. Exit codes: 0 done, 1 a check
found problems, 2 the command failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimode.engine.errors import TrimodeError

from .console import AsJson, console

if TYPE_CHECKING:
    from trimode.policy.audit import CallRecord
    from trimode.policy.replay import Engines, Replay

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Read, check, replay and compare audit files.")
Trail = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@app.command()
def show(
    file: Trail,
    run: Annotated[
        str | None, typer.Option(help="Calls of one run alone: an id of its host, or its beginning or end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lists the calls of an audit file, a line each, and the engines that decoded them."""
    from trimode.policy.audit import read_audit, records

    from .audit_tables import decoded_by, table

    lines = read_audit(file)
    if as_json:
        print(f"[{','.join(line.raw.decode() for line in lines if line.entry and _in_run(line.entry.record, run))}]")
    else:
        calls = [record for record in records(lines) if _in_run(record, run)]
        if run is not None and not calls:
            raise TrimodeError(f"{file}: no call is of a run with an id that begins or ends with {run!r}")
        view, left_out = table(calls, console.width)
        console.print(view)
        if left_out:
            print(f"no place for {', '.join(left_out)}: widen the terminal, or see --json", file=sys.stderr)
        for runtime in decoded_by(calls):
            console.print(f"decoded by {runtime}", highlight=False, markup=False)
    torn = [line for line in lines if line.entry is None]
    for line in torn:
        print(f"{line.file}: line {line.number} cannot be read: {line.problem}", file=sys.stderr)
    if torn:
        raise typer.Exit(1)


@app.command()
def verify(
    file: Trail,
    head: Annotated[str | None, typer.Option(help="An earlier head of the trail, as `audit head` printed it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Proves from the file alone that every call adds up and that no line was edited; exit code 1 if not."""
    from trimode.policy.audit import Head, read_audit
    from trimode.policy.audit import verify as problems_of

    from .audit_tables import problems_table

    problems = problems_of(file, None if head is None else Head.parse(head))
    if as_json:
        print(json.dumps([asdict(problem) for problem in problems]))
    elif problems:
        console.print(problems_table(problems))
    else:
        console.print(f"{file}: {len(read_audit(file))} calls, every one adds up", highlight=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def head(file: Trail) -> None:
    """Prints the trail's head; kept elsewhere, it lets `verify --head` detect lines cut off the end."""
    from trimode.policy.audit import head as head_of

    found = head_of(file)
    if found is None:
        raise TrimodeError(f"{file} holds no line yet")
    print(found)


@app.command()
def replay(
    file: Trail,
    model: Annotated[str | None, typer.Option(help="Directory or hub id; else the recorded name.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Draft adapter of records that name one; else the recorded name.")
    ] = None,
    call: Annotated[str | None, typer.Option(help="One call: its id or the beginning of it.")] = None,
    device: Annotated[str | None, typer.Option(help="Another device than the recorded one.")] = None,
    kernels: Annotated[str | None, typer.Option(help="Other kernels than the recorded ones.")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Decode under this policy file, or `auto`, and compare by step; several may be given."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="URL to ask again for calls of a server that promises seeds; other servers' are validated."),
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Name of the variable with the key of --server.")] = None,
    as_json: AsJson = False,
) -> None:
    """Decodes calls again from what was recorded and compares ids and rounds; exit code 1 where they differ."""
    from trimode.policy.audit import read_audit, records
    from trimode.policy.replay import NO_CONTENT, Engines, nothing_to_replay

    from .audit_tables import replays_table

    chosen = records(read_audit(file))
    chosen = chosen if call is None else [_call(chosen, call, file)]
    reasons = [nothing_to_replay(record) for record in chosen]
    if not chosen or None not in reasons:
        raise TrimodeError(f"{file}: nothing to replay: {(reasons or ['no readable call'])[0]}")
    engines = Engines(model, device, kernels, adapter)
    if server is not None and (policy or all(record.remote is None for record in chosen)):
        why = "--policy decodes in this process" if policy else f"{file} has no call that a server decoded"
        raise TrimodeError(f"--server has nothing to be asked: {why}; leave it out")
    if policy:
        _under(chosen, policy, engines, as_json)
        return
    replays = _replayed(chosen, engines, server, api_key_env)
    if as_json:
        print(json.dumps([asdict(one) for one in replays]))
    else:
        others = [one for one in replays if one.outcome not in ("same", "valid")]
        again = sum(one.outcome == "valid" for one in replays)
        console.print(replays_table(others)) if others else None
        without = sum(reason == NO_CONTENT for reason in reasons)
        remark = f", {without} without content" if without else ""
        remark += f", {again} of a server validated again" if again else ""
        same = len(replays) - len(others) - again
        console.print(f"{file}: {same} of {len(replays)} calls the same, bit for bit{remark}", highlight=False)
    if any(one.outcome in ("different", "path") for one in replays):
        raise typer.Exit(1)


def _replayed(
    chosen: Sequence[CallRecord], engines: Engines, server: str | None, api_key_env: str | None
) -> list[Replay]:
    from trimode.policy.replay import Servers
    from trimode.policy.replay import replay as replay_call

    with nullcontext() if server is None else Servers(server, api_key_env) as servers:
        found: list[Replay] = []
        for record in chosen:
            asked = None if record.remote is None or servers is None else servers.of(record.remote)
            found.append(replay_call(record, engines.of(record.runtime) if record.remote is None else asked))
        return found


def _under(chosen: Sequence[CallRecord], policies: Sequence[str], engines: Engines, as_json: bool) -> None:
    from trimode.policy.replay import replayed_under

    from .policy import policy_of, rows_table

    engine = engines.of(chosen[0].runtime) if "auto" in policies else None
    rows, wrong = replayed_under(chosen, [policy_of(given, engine) for given in policies], engines)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
    else:
        console.print(rows_table("recorded, and decoded again here", rows))
        for one in wrong:
            line = f"{one.call[:8]}: {one.mode} under {one.policy} wrote other tokens than recorded"
            console.print(line, highlight=False)
    if wrong:
        raise typer.Exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="FILE, or FILE#CALL: an id or the beginning of it.")],
    b: Annotated[str, typer.Argument(help="As A.")],
    as_json: AsJson = False,
) -> None:
    """Compares two files call by call, or two calls: fields, and the first round that differs; exit code 1 if any."""
    from trimode.policy.audit import diff_trails

    from .audit_tables import diffs_table

    (first, one), (second, other) = _side(a), _side(b)
    if one != other:
        raise TrimodeError(f"cannot compare {a} with {b}: expected two files, or two calls as FILE#CALL")
    found = diff_trails(first, second)
    if as_json:
        print(json.dumps([asdict(pair) for pair in found]))
    elif found:
        console.print(diffs_table(found))
    else:
        console.print(f"no difference in {len(first)} calls, identity, clocks and cache apart", highlight=False)
    if found:
        raise typer.Exit(1)


def _in_run(record: CallRecord, run: str | None) -> bool:
    return run is None or (record.host is not None and record.host.is_named(run))


def _side(given: str) -> tuple[list[CallRecord], bool]:
    """Returns the records of FILE, or the one of FILE#CALL, and whether a call was named."""
    from trimode.policy.audit import read_audit, records

    name, mark, call = given.rpartition("#") if "#" in given and not Path(given).exists() else (given, "", "")
    path = Path(name)
    found = records(read_audit(path))
    return ([_call(found, call, path)], True) if mark else (found, False)


def _call(found: Sequence[CallRecord], call: str, file: Path) -> CallRecord:
    chosen = [record for record in found if record.call.startswith(call)]
    if len(chosen) != 1:
        raise TrimodeError(f"{file}: {len(chosen)} calls begin with {call!r}; `trimode audit show --json` has the ids")
    return chosen[0]
