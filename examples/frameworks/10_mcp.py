"""Tools of an MCP server in a step: the call is held to the server's schema; the session has its span and record."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import trimode as tm

SERVER = [sys.executable, str(Path(__file__).with_name("10_mcp_server.py"))]


async def main() -> None:
    engine = tm.Engine.load()
    with tm.session(engine, trace="file:audit.jsonl", agent="clerk"):
        async with tm.mcp_tools(SERVER) as tools:
            found = await engine.agenerate("Weather in Rome?", tools=tools, max_tokens=40, temperature=0)
            print(found.value.name, found.value.arguments, found.guarantee)
            print("the server says", repr(await tm.aexecute(found.value, tools)))


if __name__ == "__main__":
    asyncio.run(main())
