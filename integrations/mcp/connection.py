"""One connection to an MCP server, by stdio or streamable HTTP: its tools, and calls of them.

Knows the SDK of MCP, its errors and results. Does not know steps or spans; the SDK hands on the current OpenTelemetry
span to the server. A task of its own holds the connection open, because what is raised inside the SDK's block would
leave it as a group of exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

try:
    from mcp import Client, MCPError, StdioServerParameters
    from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, Implementation, TextContent, Tool
except ImportError as _absent:
    raise ImportError(f"{_absent}; MCP needs an SDK of its own: pip install 'trimode[mcp]'") from _absent

from trimode.policy.audit import versions
from trimode.policy.errors import PolicyError, shown

from .errors import McpDisconnected, McpError, McpTimeout, McpToolFailed

PAGES: Final = 100
"""Pages of a server's list of tools that are read, so that a list without an end is refused."""


class Connection:
    """An open connection. `label`: the server's address or command, for messages."""

    def __init__(self, label: str, client: Client) -> None:
        self.label, self._client = label, client

    async def tools(self) -> list[Tool]:
        """Returns the server's tools. Raises McpError."""
        found, cursor = list[Tool](), None
        with translated(self.label):
            for _ in range(PAGES):
                page = await self._client.list_tools(cursor=cursor)
                found += page.tools
                if (cursor := page.next_cursor) is None:
                    return found
        raise McpError(self.label, f"its list of tools has more than {PAGES} pages")

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Returns the structured content of a tool's answer, or its text where it has none.

        Raises McpToolFailed and the other McpErrors. Cancelling the task tells the server that nobody waits any more.
        """
        with translated(self.label):
            result = await self._client.call_tool(tool, dict(arguments))
        if result.is_error:
            raise McpToolFailed(self.label, tool, text_of(result))
        return text_of(result) if result.structured_content is None else result.structured_content


@asynccontextmanager
async def connected(server: Any, timeout: float) -> AsyncGenerator[Connection]:
    """Opens a connection for a block. `timeout`: seconds for it, and for each answer. Raises McpError."""
    label, leave = label_of(server), asyncio.Event()
    ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    holding = asyncio.create_task(_held(_target(server), timeout, ready, leave))
    either: set[asyncio.Future[Any]] = {holding, ready}
    try:
        done, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise McpTimeout(label, f"not connected within {timeout} s")
        if holding in done:
            with translated(label):
                holding.result()
        yield Connection(label, ready.result())
    finally:
        leave.set()
        if not ready.done():
            holding.cancel()
        await asyncio.wait({holding})


async def _held(target: Any, timeout: float, ready: asyncio.Future[Client], leave: asyncio.Event) -> None:
    about = Implementation(name="trimode", version=versions()["trimode"])
    async with Client(target, read_timeout_seconds=timeout, client_info=about) as client:
        ready.set_result(client)
        await leave.wait()


def _target(server: Any) -> Any:
    """Returns what the SDK's client takes. Raises PolicyError for a text that is no address and no command."""
    if isinstance(server, str) and not server.startswith(("http://", "https://")):
        expected = "a URL, or a command as a list of words"
        raise PolicyError(f"mcp_tools({shown(server)}): expected {expected}: mcp_tools(['python', 'server.py'])")
    if isinstance(server, list | tuple):
        command, *words = server
        return StdioServerParameters(command=command, args=words)
    return server


def label_of(server: Any) -> str:
    """Returns the address without credentials and query, the command, or the class of another transport."""
    if isinstance(server, str):
        scheme, _, rest = server.partition("://")
        return f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}"
    if isinstance(server, StdioServerParameters):
        return " ".join([server.command, *server.args])
    return " ".join(map(str, server)) if isinstance(server, list | tuple) else type(server).__name__


@contextmanager
def translated(label: str) -> Generator[None]:
    """Raises McpErrors in place of what the SDK, its transports and their groups of exceptions raise."""
    try:
        yield
    except McpError:
        raise
    except Exception as raised:
        error = _first(raised)
        raise _translated(label, error) from error


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _translated(label: str, error: BaseException) -> McpError:
    message = str(error) or type(error).__name__
    code = error.code if isinstance(error, MCPError) else None
    if code == REQUEST_TIMEOUT or isinstance(error, TimeoutError):
        return McpTimeout(label, message)
    if code == CONNECTION_CLOSED or isinstance(error, OSError) or "Connect" in type(error).__name__:
        return McpDisconnected(label, message)
    return McpError(label, message)


def text_of(result: CallToolResult) -> str:
    """Returns the text of an answer; of a part that is none, such as an image, a line that names it."""
    parts = [
        part.text if isinstance(part, TextContent) else f"[{part.type}, not shown: no text]" for part in result.content
    ]
    return "\n".join(parts)
