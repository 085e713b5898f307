"""What can go wrong with a tool of an MCP server, one class for each cause.

Knows names of servers and tools. Does not know the protocol. All are ToolErrors, as those of functions are.

McpError                  a server of tools failed
├── McpToolFailed             the tool ran, and says that it failed
├── McpTimeout                no answer in time
├── McpDisconnected           the server cannot be reached, or went away
└── McpNamesCollide           several tools have one name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimode.policy.errors import ToolError


class McpError(ToolError):
    """A failure of an MCP server. `server`: its address or command."""

    server: str

    def __init__(self, server: str, message: str) -> None:
        super().__init__(f"MCP server {server}: {message}")
        self.server = server


class McpToolFailed(McpError):
    """A tool that ran and says that it failed. `text`: what it says, which a model may read and act upon."""

    text: str

    def __init__(self, server: str, tool: str, text: str) -> None:
        super().__init__(server, f"tool {tool!r} failed: {text or 'without a word'}")
        self.text = text


class McpTimeout(McpError, TimeoutError):
    """A server that did not answer in time."""


class McpDisconnected(McpError, ConnectionError):
    """A server that cannot be reached, or that went away."""


class McpNamesCollide(McpError):
    """Tools with one name. `names`: each with the servers that offer it."""

    names: dict[str, tuple[str, ...]]

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        name, servers = next(iter(names.items()))
        how = "give the servers names, which their tools then begin with: mcp_tools(one=..., other=...)"
        super().__init__(servers[0], f"tool {name!r} is offered by {' and by '.join(servers)}; {how}")
        self.names = {name: tuple(servers) for name, servers in names.items()}
