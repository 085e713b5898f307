"""What every command shares: the console it prints on and the options that mean the same everywhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 120)

Checkpoint = Annotated[
    str | None, typer.Option("--checkpoint", "-c", help="Directory or hub id; the bundled checkpoint if not given.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
