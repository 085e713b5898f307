"""A small MCP server, on stdio or, with a port, on streamable HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import Field

shop = MCPServer("shop", log_level="CRITICAL")


@shop.tool()
def price(thing: str, count: Annotated[int, Field(ge=1, le=9)]) -> dict[str, int]:
    """The price of some things."""
    return {"total": count * len(thing)}


@shop.tool(structured_output=False)
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@shop.tool()
def refuse(why: str) -> str:
    """Fails."""
    raise ToolError(f"refused: {why}")


@shop.tool()
def picture() -> CallToolResult:
    """A text and a picture."""
    parts = [TextContent(type="text", text="a table"), ImageContent(type="image", data="", mime_type="image/png")]
    return CallToolResult(content=[*parts])


@shop.tool()
async def wait() -> str:
    """Never answers; a file says that it was asked, and that it was cancelled."""
    log = os.environ.get("SHOP_LOG", os.devnull)
    with open(log, "a") as file:
        print("asked", file=file, flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("cancelled", file=file, flush=True)
            raise
    return ""


@shop.tool()
def leave() -> str:
    """Ends the server."""
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        shop.run("streamable-http", port=int(sys.argv[1]))
    else:
        shop.run()
