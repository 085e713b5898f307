"""Tools of MCP servers in steps, and the audit as a server: the SDK at both ends, on stdio and on loopback.

The names of tests are rows of docs/mcp.md.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer
from mcp_shop import shop
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.integrations.mcp.errors import McpDisconnected, McpError, McpNamesCollide, McpTimeout, McpToolFailed

SHOP = [sys.executable, str(Path(__file__).parent / "mcp_shop.py")]
PRICE = tm.ToolCall(name="price", arguments={"thing": "table", "count": 2})
NAMES = ["price", "weather", "refuse", "picture", "wait", "leave"]


@pytest.fixture
def url() -> Iterator[str]:
    """The shop on streamable HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*SHOP, str(port)]) as process:
        while process.poll() is None:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


def call(name: str, **arguments: Any) -> tm.ToolCall:
    return tm.ToolCall(name=name, arguments=arguments)


async def called(server: Any, *calls: tm.ToolCall, **options: Any) -> list[Any]:
    """What each call returns, or raises."""
    async with tm.mcp_tools(server, **options) as tools:
        return [await asyncio.gather(tm.aexecute(one, tools), return_exceptions=True) for one in calls]


def test_tools_on_stdio() -> None:
    ((total,), (sky,)) = asyncio.run(called(SHOP, PRICE, call("weather", city="Rome")))
    assert (total, sky) == ({"total": 10}, "sunny in Rome")


def test_tools_on_http(url: str) -> None:
    ((total,), (gone,), (after,)) = asyncio.run(called(url, PRICE, call("leave"), PRICE, timeout=5))
    assert total == {"total": 10}
    assert isinstance(gone, McpError)
    assert isinstance(after, McpError)


def test_a_step_calls_a_tool(engine: tm.Engine) -> None:
    """The call is decoded under the server's schemas, for a tool_call and in a turn."""

    async def run() -> tuple[Any, Any]:
        async with tm.mcp_tools(shop, only=["weather"]) as tools:
            one = await engine.agenerate("Weather in Rome?", tools=tools, max_tokens=40, temperature=0)
            turn = await engine.agenerate(
                messages=[{"role": "user", "content": "Weather in Rome?"}], tools=tools, step="turn",
                tool_choice="required", max_tokens=60, temperature=0,
            )  # fmt: skip
            return await tm.aexecute(one.value, tools), await tm.aexecute(turn.calls[0], tools)

    for answer in asyncio.run(run()):
        assert answer.startswith("sunny in ")


def test_one_trace_from_the_step_to_the_server(engine: tm.Engine, spans: InMemorySpanExporter) -> None:
    async def run() -> None:
        with tm.session(engine, agent="clerk"):
            async with tm.mcp_tools(shop) as tools:
                await tm.aexecute(PRICE, tools, call_id="call-1")

    asyncio.run(run())
    (tool,) = [span for span in spans.get_finished_spans() if span.name == "execute_tool price"]
    (agent,) = [span for span in spans.get_finished_spans() if span.name == "invoke_agent clerk"]
    assert tool.attributes is not None
    assert tool.parent is not None
    assert tool.parent.span_id == agent.context.span_id
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.call.id"] == "call-1"


def test_arguments_are_checked_before_they_are_sent() -> None:
    ((wrong,),) = asyncio.run(called(shop, call("price", thing="table", count=20)))
    assert isinstance(wrong, tm.InvalidArguments)
    assert "20 is greater than the maximum of 9" in str(wrong)


def test_errors_of_a_tool_have_its_text() -> None:
    ((refused,), (unknown,)) = asyncio.run(called(shop, call("refuse", why="sold out"), call("steal")))
    assert isinstance(refused, McpToolFailed)
    assert "sold out" in refused.text
    assert isinstance(unknown, tm.UnknownTool)


def test_parts_that_are_no_text_are_named() -> None:
    ((shown,),) = asyncio.run(called(shop, call("picture")))
    assert shown == "a table\n[image, not shown: no text]"


def test_a_server_that_goes_away() -> None:
    ((gone,), (after,)) = asyncio.run(called(SHOP, call("leave"), PRICE))
    assert isinstance(gone, McpDisconnected)
    assert isinstance(after, McpDisconnected)


@pytest.mark.parametrize(
    "server", [["/nonexistent/server"], [sys.executable, "-c", "pass"], "http://127.0.0.1:1/mcp"], ids=str
)
def test_a_server_that_is_not_there(server: Any) -> None:
    with pytest.raises(McpDisconnected) as found:
        asyncio.run(called(server))
    assert found.value.server == (server if isinstance(server, str) else " ".join(server))


def test_no_answer_in_time() -> None:
    ((late,),) = asyncio.run(called(shop, call("wait"), timeout=0.05))
    assert isinstance(late, McpTimeout)
    with pytest.raises(McpTimeout, match="not connected within"):
        asyncio.run(called([sys.executable, "-c", "import signal; signal.pause()"], timeout=0.05))


def test_cancelling_reaches_the_server(tmp_path: Path) -> None:
    log = tmp_path / "shop.log"
    server = StdioServerParameters(command=SHOP[0], args=SHOP[1:], env={"SHOP_LOG": str(log)})

    async def run() -> None:
        async with tm.mcp_tools(server) as tools:
            task = asyncio.ensure_future(tm.aexecute(call("wait"), tools))
            while not log.exists() or "asked" not in log.read_text():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while "cancelled" not in log.read_text():
                await asyncio.sleep(0.01)
            assert await tm.aexecute(PRICE, tools) == {"total": 10}

    asyncio.run(run())


def test_what_is_raised_inside_is_raised_as_it_is() -> None:
    async def run() -> None:
        async with tm.mcp_tools(shop):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(run())


def test_names_that_collide_and_names_of_servers() -> None:
    async def names(*servers: Any, **options: Any) -> list[str]:
        async with tm.mcp_tools(*servers, **options) as tools:
            return [tool.name for tool in tools]

    with pytest.raises(McpNamesCollide) as found:
        asyncio.run(names(shop, shop))
    assert list(found.value.names) == NAMES
    assert asyncio.run(names(shop, other=shop)) == [*NAMES, *(f"other_{name}" for name in NAMES)]
    assert asyncio.run(names(a=shop, b=shop, only=["a_price", "b_weather"])) == ["a_price", "b_weather"]
    with pytest.raises(tm.UnknownTool, match="'steal'"):
        asyncio.run(names(shop, only=["steal"]))
    for wrong in ({"only": "price"}, {"other": "python server.py"}):
        with pytest.raises(tm.PolicyError, match="expected a"):
            asyncio.run(names(shop, **wrong))


def test_schemas_are_refused_by_tool_and_place(engine: tm.Engine) -> None:
    """A malformed one when the tools are listed, one that the grammar cannot enforce by the call."""

    def odd(schema: dict[str, Any]) -> MCPServer:
        server = MCPServer("odd", log_level="CRITICAL")
        server.tool(name="odd")(lambda: "")
        server._tool_manager._tools["odd"].parameters = {"type": "object", "properties": {"a": schema}}
        return server

    async def generated(server: MCPServer) -> None:
        async with tm.mcp_tools(server) as tools:
            await engine.agenerate("Weather in Rome?", tools=tools, max_tokens=40)

    with pytest.raises(tm.MalformedSchema, match="tool 'odd'") as malformed:
        asyncio.run(generated(odd({"type": "strin"})))
    assert "MCP server MCPServer" in malformed.value.__notes__[0]
    with pytest.raises(tm.SchemaRefused, match="tool 'odd'"):
        asyncio.run(generated(odd({"$ref": "#/nowhere"})))


def test_the_audit_as_a_server(engine: tm.Engine, trail: Path) -> None:
    with tm.session(engine, trace=f"file:{trail}", content=True):
        engine.generate("The table is", max_tokens=4)
    command = StdioServerParameters(command=sys.executable, args=["-m", "trimode", "mcp", str(trail.parent)],
                                    env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip

    async def run() -> list[Any]:
        async with Client(command, read_timeout_seconds=120) as client:
            tools = (await client.list_tools()).tools
            assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
            asked: list[tuple[str, dict[str, Any]]] = [
                ("audit_files", {}),
                ("audit_show", {"file": str(trail)}),
                ("audit_verify", {"file": str(trail)}),
                ("audit_explain", {"file": str(trail), "call": "1"}),
                ("audit_show", {"file": "/etc/passwd"}),
            ]
            return [await client.call_tool(name, arguments) for name, arguments in asked]

    files, shown, verified, explained, refused = asyncio.run(run())
    assert files.structured_content == {"result": [str(trail)]}
    assert shown.structured_content["calls"][0]["output_tokens"] == 4
    assert verified.structured_content["intact"]
    assert len(explained.structured_content["rounds"]) >= 1
    assert "text" not in json.dumps([shown.structured_content, explained.structured_content])
    assert refused.is_error
    assert "no audit file is named" in refused.content[0].text
