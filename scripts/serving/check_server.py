"""Counts that the server gives right answers under load, gives everything back, and survives what nobody should send.

    python scripts/serving/check_server.py --requests 2000 --clients 32 --mutants 10000 --json OUT

A server on loopback, in a thread of this process, over the bundled checkpoint. Soak: chats of all kinds (text, schemas,
calls; at once and as streams; three exact modes), `--clients` at a time; one in eight leaves before its end. Every
answer that arrives is compared with what the engine says alone with its seed. Then all pages must be free or stored
prefixes, and memory is read after a tenth of the requests, after half and after all. Mutants: valid bodies with
bytes, values and keys changed at random; a status of 500 and above, or no answer in 60 s, is a failure. Exit
code 1 for a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx

from trimode.integrations.server.process import in_thread
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls import Engine

MODEL: Final = "trimode-reference"
CHAT: Final = "/v1/chat/completions"
MODES: Final = ("ar", "linear_spec", "quadratic_spec")
TEXTS: Final = ("How many apples are there?", "Book a table for two.", "naïve 日本語 🎉", "Is it raining in Paris?")
SCHEMA: Final = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
    "additionalProperties": False,
}
TOOL: Final = {"type": "function", "function": {"name": "measure", "description": "Measures.", "parameters": SCHEMA}}
PATIENCE: Final = 60.0
"""Seconds for one answer."""


def request(dice: random.Random) -> dict[str, Any]:
    """A body of a chat at random: text, a schema, or a call; greedy or sampled; in one of the exact modes."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": dice.choice(TEXTS)}],
        "max_completion_tokens": dice.randint(60, 90),
        "seed": dice.randrange(4),
        "temperature": dice.choice([0.0, 0.8]),
        "trimode": {"mode": dice.choice(MODES)},
    }
    kind = dice.choice(["text", "schema", "call"])
    if kind == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    if kind == "call":
        body |= {"tools": [TOOL], "tool_choice": "required"}
    return body


def alone(engine: Engine, body: dict[str, Any]) -> Any:
    """What the engine says to a body without a server: text and calls."""
    options = {"messages": body["messages"], "seed": body["seed"], "temperature": body["temperature"]}
    options |= {"max_tokens": body["max_completion_tokens"], "mode": body["trimode"]["mode"]}
    if "response_format" in body:
        options["schema"] = SCHEMA
    if "tools" in body:
        options |= {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True}
    result = engine.generate(**options)
    return result.content, [(call.name, call.arguments) for call in result.calls]


def said(message: dict[str, Any]) -> Any:
    """What a message of the API says, in the same form."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return message["content"], [(call["name"], json.loads(call["arguments"])) for call in calls]


async def once(client: httpx.AsyncClient, body: dict[str, Any], stream: bool, leaves: bool) -> Any:
    """One request; None where the client leaves before the end."""
    if not stream and leaves:
        try:
            await client.post(CHAT, json=body, timeout=0.02)
        except httpx.TimeoutException:
            return None
        return None
    if not stream:
        return said((await client.post(CHAT, json=body)).raise_for_status().json()["choices"][0]["message"])
    message: dict[str, Any] = {"content": "", "tool_calls": {}}
    async with client.stream("POST", CHAT, json={**body, "stream": True}) as reply:
        async for line in reply.aiter_lines():
            if leaves and message["content"]:
                return None
            if line.startswith("data: {"):
                _add(message, json.loads(line.removeprefix("data: "))["choices"][0]["delta"])
    message["tool_calls"] = list(message["tool_calls"].values())
    message["content"] = message["content"] or None
    return said(message)


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    message["content"] += delta.get("content") or ""
    for piece in delta.get("tool_calls", ()):
        call = message["tool_calls"].setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
        for key, value in piece["function"].items():
            call["function"][key] += value


async def soak(engine: Engine, url: str, requests: int, clients: int, seed: int = 0) -> dict[str, Any]:
    """Sends `requests`, `clients` at a time; returns counts of right and wrong answers and of clients that left."""
    dice, expected, counts = random.Random(seed), dict[str, Any](), Counter[str]()
    asked = [(request(dice), dice.random() < 0.5, dice.random() < 0.125) for _ in range(requests)]
    for body, _, _ in asked:
        expected[json.dumps(body)] = expected.get(json.dumps(body)) or alone(engine, body)
    waiting, memory = iter(asked), list[int]()
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as client:

        async def work() -> None:
            for body, stream, leaves in waiting:
                try:
                    found = await once(client, body, stream, leaves)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    counts[f"error: {type(error).__name__}"] += 1
                    continue
                right = found is None or found == expected[json.dumps(body)]
                counts["left" if found is None else "right" if right else "wrong"] += 1
                if counts.total() in (requests // 10, requests // 2, requests):
                    memory.append(_resident())

        await asyncio.gather(*(work() for _ in range(clients)))
    return {"requests": requests, "clients": clients, **counts, **_given_back(engine), "resident_bytes": memory}


def _given_back(engine: Engine) -> dict[str, Any]:
    """Whether all pages are free, or held once by the prefix index."""
    end = time.monotonic() + PATIENCE
    while engine.live and time.monotonic() < end:
        time.sleep(0.01)
    pool = engine.tokens.pool
    kept = sum(count > 0 for count in pool.references)
    back = max(pool.references) <= 1 and kept + pool.free == pool.pages
    return {"live": engine.live, "pages_back": back, "pages_of_prefixes": kept}


def _resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def mutant(dice: random.Random) -> bytes:
    """A valid body with something changed: a value, a key, or bytes of its text."""
    body = {**request(dice), "max_completion_tokens": 60, "stream": dice.random() < 0.3}
    for _ in range(dice.randint(0, 2)):
        _change(body, dice)
    text = bytearray(json.dumps(body), "utf-8")
    for _ in range(dice.choice([0, 0, 1, 3])):
        at = dice.randrange(len(text))
        text[at : at + dice.choice([0, 1, 5])] = dice.randbytes(dice.choice([0, 1, 2]))
    return bytes(text[: dice.randrange(len(text))] if dice.random() < 0.05 else text)


def _change(document: Any, dice: random.Random) -> None:
    """Changes one place of a document, the deeper the rarer."""
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    if not keys:
        return
    key = dice.choice(keys)
    if isinstance(document[key], dict | list) and document[key] and dice.random() < 0.7:
        _change(document[key], dice)
    elif isinstance(document, dict) and dice.random() < 0.3:
        document[dice.choice(["x", "", "\u0000", "type", "n", "stop"])] = document.pop(key)
    else:
        document[key] = dice.choice(
            [
                None,
                True,
                -1,
                0,
                1e308,
                2**70,
                "",
                "\ud800x",
                "x" * 5000,
                [],
                {},
                [[[]]],
                {"$ref": "#"},
                {"type": 3},
                0.5,
            ]
        )


async def mutants(url: str, count: int, clients: int, seed: int = 0) -> dict[str, int]:
    """Sends `count` mutants; returns how many got each status, and how many got no answer."""
    dice, counts = random.Random(seed), Counter[str]()
    waiting = iter([mutant(dice) for _ in range(count)])
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:

        async def work() -> None:
            for body in waiting:
                try:
                    reply = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
                    counts[str(reply.status_code)] += 1
                except httpx.HTTPError as error:
                    counts[f"no answer: {type(error).__name__}"] += 1

        await asyncio.gather(*(work() for _ in range(clients)))
    return dict(sorted(counts.items()))


def failures(report: dict[str, Any]) -> list[str]:
    """What of a report should not be there."""
    load, odd = report["soak"], report["mutants"]
    found = [name for name in load if name.startswith(("error", "wrong"))]
    found += [] if load["pages_back"] and not load["live"] else ["pages"]
    return found + [status for status in odd if not status.startswith(("2", "4"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    engine = Engine.load()
    with engine, in_thread(engine, ServerSettings(name=MODEL, queue=args.clients)) as url:
        report: dict[str, Any] = {"python": platform.python_version(), "kernels": engine.kernels}
        report["soak"] = asyncio.run(soak(engine, url, args.requests, args.clients))
        report["mutants"] = asyncio.run(mutants(url, args.mutants, args.clients))
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if failed := failures(report):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
