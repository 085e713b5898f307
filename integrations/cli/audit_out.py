"""`trimode audit report` and `trimode audit push`: an audit file as a page, or sent as spans.

Knows typer. Does not know how pages or spans are made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


def add_to(app: typer.Typer) -> None:
    app.command()(report)
    app.command()(push)


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
