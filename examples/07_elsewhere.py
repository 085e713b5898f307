"""One agent, unchanged, on an engine in this process and on servers; all of it in one audit file.

Runs here alone unless the environment names servers: LLAMACPP_URL, VLLM_URL, TRIMODE_URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import trimode as tm

SERVERS = {"llamacpp": "LLAMACPP_URL", "vllm": "VLLM_URL", "trimode": "TRIMODE_URL"}
REQUEST = "a table for two at Roma, please"
TABLE = {
    "type": "object",
    "properties": {"place": {"enum": ["Roma", "Napoli"]}, "people": {"type": "integer", "minimum": 1, "maximum": 8}},
    "required": ["place", "people"],
    "additionalProperties": False,
}
BOOK = {"name": "book_table", "description": "Books a table at a restaurant.", "parameters": TABLE}


@tm.step("tool_call", tools=[BOOK], max_tokens=96)
def act(request: str) -> tm.ToolCall:
    """{request}"""
    return tm.ask()


@tm.step("prose", max_tokens=24)
def reply(facts: str) -> str:
    """{facts}"""
    return tm.ask()


def agent(request: str) -> str:
    """One turn: call the tool, then say what was done."""
    call = act(request)
    return reply(f"booked: {call.arguments['place']}, {call.arguments['people']} people")


def engines() -> Iterator[tuple[str, tm.Engine]]:
    """Yields the engine of this process, then one for each server that the environment names."""
    yield "here", tm.Engine.load()
    for kind, variable in SERVERS.items():
        if url := os.environ.get(variable):
            yield kind, tm.Engine.remote(url, kind)


def main() -> None:
    for name, engine in engines():
        with engine, tm.session(engine, trace="file:agent.jsonl", content=True) as session:
            agent(REQUEST)
            for _, result in session.results:
                print(f"{name}: {result!r}")


if __name__ == "__main__":
    main()
