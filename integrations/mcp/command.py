"""`trimode mcp`. Knows typer. Does not know what the server answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(mcp)


def mcp(
    paths: Annotated[list[Path], typer.Argument(help="Audit files, and folders with audit files; no others are read.")],
    content: Annotated[
        bool, typer.Option("--content", help="Answers may have the recorded text of prompts and outputs.")
    ] = False,
) -> None:
    """Serves audit files to an assistant by MCP on stdio: show, verify and explain. Needs the extra `mcp`."""
    from trimode.engine.errors import TrimodeError

    from .trails import Trails

    trails = Trails.of(paths)
    try:
        from .audit_server import audit_server
    except ImportError as error:
        raise TrimodeError(str(error)) from error
    audit_server(trails, content).run()
