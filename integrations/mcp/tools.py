"""Tools of MCP servers as tools of a step: described by their schemas, called over the connection.

Knows tools and JSON Schemas. Does not know the protocol (`connection.py`). A tool's `execute_tool` span is that of any
function, because `tm.aexecute` runs it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trimode.policy.errors import InvalidArguments, PolicyError, SchemaError, UnknownTool, shown
from trimode.policy.json_schema import validator_of, violation
from trimode.policy.schema import tool_schema

from .errors import McpNamesCollide

McpServer = str | Sequence[str] | object
"""A server: the URL of one that runs (streamable HTTP), a command that starts one (stdio), a transport of the SDK."""


@dataclass(frozen=True, eq=False, kw_only=True)
class McpTool:
    """A tool of a server, as steps take it and as `tm.aexecute` runs it. `name`: with the prefix of a named server.

    `input_schema`: the JSON Schema of its arguments. `server`: the address or command.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    server: str
    send: Callable[[Mapping[str, Any]], Awaitable[Any]]

    async def __call__(self, **arguments: Any) -> Any:
        """Returns the structured content of the tool's answer, or its text where it has none.

        Raises InvalidArguments before anything is sent, and McpErrors.
        """
        if (wrong := violation(self._validator, arguments)) is not None:
            raise InvalidArguments(self.name, arguments, wrong)
        return await self.send(arguments)

    @cached_property
    def _validator(self) -> Any:
        return validator_of(self.input_schema)


@asynccontextmanager
async def mcp_tools(
    *servers: McpServer, timeout: float = 60, only: Collection[str] | None = None, **named: McpServer
) -> AsyncGenerator[list[McpTool]]:
    """Connects to MCP servers for a block, and yields their tools, for `tools=` of a step and for `tm.aexecute`.

    `servers`: URLs of streamable HTTP, or commands, as lists of words, that start a server on stdio. Tools of a server
    in `named` have its name before theirs: `mcp_tools(shop=url)` makes `shop_order` of `order`. `only`: the names of
    the tools to take. `timeout`: seconds for connecting, and for each answer. Needs the extra `mcp`.

    Raises McpDisconnected, McpTimeout; McpNamesCollide where two tools have one name; UnknownTool for a name in `only`
    that none has; SchemaError for a tool whose schema is malformed. Keywords that the grammar cannot enforce are
    refused by the call, as those of any tool.
    """
    from .connection import connected

    if not servers and not named:
        raise PolicyError("mcp_tools(): expected at least one server: a URL, or a command as a list of words")
    async with AsyncExitStack() as open_ones:
        found = list[McpTool]()
        for prefix, server in [*(("", one) for one in servers), *((f"{name}_", one) for name, one in named.items())]:
            connection = await open_ones.enter_async_context(connected(server, timeout))
            found += [_tool(connection, prefix, tool) for tool in await connection.tools()]
        yield [_admitted(tool) for tool in _chosen(found, only)]


def _tool(connection: Any, prefix: str, tool: Any) -> McpTool:
    async def send(arguments: Mapping[str, Any]) -> Any:
        return await connection.call(tool.name, arguments)

    return McpTool(
        name=prefix + tool.name,
        description=tool.description or "",
        input_schema=tool.input_schema,
        server=connection.label,
        send=send,
    )


def _chosen(tools: Sequence[McpTool], only: Collection[str] | None) -> Iterable[McpTool]:
    """Returns the tools in `only`, or all. Raises PolicyError, UnknownTool and McpNamesCollide."""
    if isinstance(only, str):
        raise PolicyError(f"mcp_tools(only={shown(only)}): expected a list of names")
    by_name = defaultdict[str, list[McpTool]](list)
    for tool in tools:
        by_name[tool.name].append(tool)
    for name in only or ():
        if name not in by_name:
            raise UnknownTool(name, [*by_name])
    chosen = [tool for tool in tools if only is None or tool.name in only]
    doubled = {tool.name: [one.server for one in by_name[tool.name]] for tool in chosen if len(by_name[tool.name]) > 1}
    if doubled:
        raise McpNamesCollide(doubled)
    return chosen


def _admitted(tool: McpTool) -> McpTool:
    """Returns a tool whose schema is well formed. Raises SchemaError, with a note that names the server."""
    try:
        tool_schema([tool])
    except SchemaError as error:
        error.add_note(f"tool {tool.name!r} of MCP server {tool.server}; mcp_tools(only=[...]) takes the others")
        raise
    return tool
