"""`trimode audit report`, `push` and `merge`: an audit file as a page, sent as spans, or several files as one.

Knows typer. Does not know how pages or spans are made, or which records of two are kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .console import AsJson

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


def add_to(app: typer.Typer) -> None:
    app.command()(report)
    app.command()(push)
    app.command()(merge)


def report(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")],
    calls: Annotated[str, typer.Option(help="Calls to show, as FIRST:LAST, both included; all if not given.")] = ":",
) -> None:
    """Writes one self-contained HTML page: the calls on a timeline, and the origin of every token."""
    from ..report.page import write

    found = write(file, out, calls)
    print(f"written: {out} ({found})")


def push(
    file: File,
    to: Annotated[str, typer.Option(help="phoenix, mlflow, or the URL of an OTLP/HTTP collector.")],
    content: Annotated[
        bool | None, typer.Option(help="Send text and drafts; by default as the OpenTelemetry switch sets it.")
    ] = None,
) -> None:
    """Sends recorded calls to a trace server; exit code 1 if lines of the file cannot be read."""
    from trimode.policy.audit import read_audit, records

    from ..tracing.collector import collector
    from ..tracing.push import push as send

    lines, target = read_audit(file), collector(to)
    calls = records(lines)
    spans = send(calls, target, content)
    print(f"sent: {len(calls)} calls as {spans} spans to {target.url}")
    torn = [line for line in lines if line.entry is None]
    for line in torn:
        print(f"line {line.number} cannot be read: {line.problem}", file=sys.stderr)
    if torn:
        raise typer.Exit(1)


def merge(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Audit files, one a replica.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The audit file to write; nothing may be there.")],
    as_json: AsJson = False,
) -> None:
    """Merges the audit files of several replicas, once each verifies; of a call that was decoded again, because its
    replica was lost, the last attempt stays."""
    from trimode.policy.audit import merged, write_merged

    found = merged(files)
    head = write_merged(found, out)
    if as_json:
        told = {"calls": len(found.records), "doubled": found.doubled, "head": None if head is None else str(head)}
        print(json.dumps({**told, "replaced": [one.call for one in found.replaced], "torn": len(found.torn)}))
        return
    print(f"written: {out} ({len(found.records)} calls of {len(files)} files; head {head})")
    for record in found.replaced:
        served = record.served
        print(f"left out: {record.call} of replica {served.replica if served else '?'}, which was decoded again")
    for line in found.torn:
        print(f"left out: line {line.number} of {line.file}, which a killed process did not finish", file=sys.stderr)
