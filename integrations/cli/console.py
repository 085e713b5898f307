"""What every command shares: the console it prints on and the options that mean the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trimode.engine.errors import TrimodeError

console = Console(width=None if sys.stdout.isatty() else 120)

Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", "-c", help="Directory, GGUF file, `smollm2` or hub id; the bundled one if not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def run_script(name: str, words: list[str]) -> int:
    """The exit code of a script of the source checkout."""
    script = Path(__file__).resolve().parents[2] / "scripts" / name
    if not script.is_file():
        raise TrimodeError(f"this needs a source checkout: scripts/{name} is not part of the installed package")
    return subprocess.call([sys.executable, str(script), *words])
