"""The console and the options that commands share. Knows typer. Does not know the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console, ConsoleDimensions

from trimode.engine.errors import TrimodeError

UNBROKEN: Final = 100_000
"""Columns of piped output where COLUMNS says nothing: no line is broken."""


class Output(Console):
    """stdout: as wide as the terminal or COLUMNS. Piped, it is plain text: without colours, broken lines or trailing
    spaces."""

    @property
    def piped(self) -> bool:
        return not self.file.isatty()

    @property
    def size(self) -> ConsoleDimensions:
        if not self.piped:
            return super().size
        given = os.environ.get("COLUMNS", "")
        return ConsoleDimensions(int(given) if given.isdecimal() and int(given) else UNBROKEN, 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **how: Any) -> None:
        """Prints as `Console.print` does."""
        if not self.piped:
            super().print(*objects, **how)
            return
        if all(isinstance(one, str) for one in objects):
            how["soft_wrap"] = True
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))
        self.file.flush()


console: Output = Output()

Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", "-c", help="Directory, GGUF file, `smollm2` or hub id; the bundled one if not given."),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="Directory or hub id of a draft adapter for the checkpoint; none: not the bundled one either."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def adapter_of(given: str | None) -> str | Literal[False] | None:
    """Returns what `Engine.load` takes for the option `--adapter`."""
    return False if given == "none" else given


def run_script(name: str, arguments: list[str]) -> int:
    """Runs a script of the source checkout and returns its exit code. Raises TrimodeError where there is no
    checkout."""
    script = Path(__file__).resolve().parents[2] / "scripts" / name
    if not script.is_file():
        raise TrimodeError(f"this needs a source checkout: scripts/{name} is not part of the installed package")
    return subprocess.call([sys.executable, str(script), *arguments])
