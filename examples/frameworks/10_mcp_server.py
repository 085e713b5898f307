"""An MCP server with one tool, on stdio, which 10_mcp.py starts. It knows nothing of trimode."""

from __future__ import annotations

from mcp.server import MCPServer

server = MCPServer("weather", log_level="ERROR")


@server.tool(structured_output=False)
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


if __name__ == "__main__":
    server.run()
