"""The audit as an MCP server on stdio: files, show, verify and explain, for an assistant to read. Nothing is written.

Knows the SDK of MCP. Does not know records or paths.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, Final, ParamSpec, TypeVar

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
except ImportError as _absent:
    raise ImportError(f"{_absent}; MCP needs an SDK of its own: pip install 'trimode[mcp]'") from _absent

from pydantic import Field

from trimode.engine.errors import TrimodeError
from trimode.policy.audit import versions

from . import answers
from .trails import Trails

P = ParamSpec("P")
R = TypeVar("R")
ABOUT: Final = (
    "Audit trails of trimode: a record for each call of a language model, with how each output token came about "
    "(a accepted draft, c chosen by the model, f forced by the schema, r repaired, b forced by the budget). "
    "audit_files lists the files; audit_show lists calls; audit_verify proves that a file adds up and was not edited; "
    "audit_explain says why one call was decoded as it was."
)
_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
File = Annotated[str, Field(description="A name that audit_files lists.")]


def audit_server(trails: Trails, content: bool) -> MCPServer:
    """Returns a server for these files. `content`: whether answers may have text of prompts and outputs."""
    server = MCPServer("trimode", instructions=ABOUT, version=versions()["trimode"], log_level="WARNING")
    tool = server.tool(annotations=_READS)

    @tool
    @_told
    def audit_files() -> list[str]:
        """Lists the audit files."""
        return trails.names()

    @tool
    @_told
    def audit_show(
        file: File,
        first: Annotated[int, Field(ge=1, description="Number of the first call to list.")] = 1,
        run: Annotated[str, Field(description="Only calls of one run of a framework, by its id.")] = "",
    ) -> dict[str, Any]:
        """Lists calls of a file in order: step, modes, counts of tokens and drafts, outcome."""
        return answers.show(trails.path(file), first, run, content)

    @tool
    @_told
    def audit_verify(
        file: File,
        head: Annotated[str, Field(description="An earlier head, NUMBER:SHA256, to find lines cut off.")] = "",
    ) -> dict[str, Any]:
        """Proves from a file alone that every call adds up and that no line was edited, or lists the problems."""
        return answers.verified(trails.path(file), head)

    @tool
    @_told
    def audit_explain(
        file: File, call: Annotated[str, Field(description="The call's number, or the beginning of its id.")]
    ) -> dict[str, Any]:
        """Says why one call was decoded in its modes, and how each round went."""
        return answers.explain(trails.path(file), call, content)

    return server


def _told(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function with its errors as those that the SDK tells the client of."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _translated():
            return function(*args, **kwargs)

    return run


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (TrimodeError, OSError) as error:
        raise ToolError(str(error)) from error
