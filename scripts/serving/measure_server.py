"""What the server adds to a call: the same calls by `engine.agenerate` in one process, and over HTTP on loopback.

    python scripts/serving/measure_server.py --clients 1 16 --calls 200 --rounds 5 --json OUT

Rounds alternate between the two sides. Both run in this process, the server in a thread of its own, as does the engine;
the HTTP client shares the machine with both, so that its own work counts as the server's. Reported for each number of
clients: the median seconds of a call on either side, their difference, and tokens per second of all clients together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
from check_server import CHAT, MODEL

from trimode.integrations.server.process import in_thread
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls import Engine

TEXT: Final = "There are 5 boxes with 20 apples in each box. How many apples are there in box number {}?"
TOKENS: Final = 32
Once = Callable[[int], Awaitable[int]]
"""One call by its number; returns its output tokens."""


async def run(once: Once, clients: int, calls: int) -> tuple[list[float], float]:
    """Returns the seconds of each call, and tokens per second of all."""
    numbers, seconds, tokens, began = iter(range(calls)), list[float](), 0, time.perf_counter()

    async def work() -> None:
        nonlocal tokens
        for number in numbers:
            start = time.perf_counter()
            made = await once(number)  # not added in one go: the others add meanwhile
            tokens += made
            seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(work() for _ in range(clients)))
    return seconds, tokens / (time.perf_counter() - began)


async def measured(engine: Engine, url: str, clients: int, calls: int, rounds: int) -> dict[str, Any]:
    """Returns the readings of one number of clients."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def direct(number: int) -> int:
            messages = [{"role": "user", "content": TEXT.format(number)}]
            return (await engine.agenerate(messages=messages, max_tokens=TOKENS, mode="ar")).stats.output_tokens

        async def over_http(number: int) -> int:
            messages = [{"role": "user", "content": TEXT.format(number)}]
            body = {"model": MODEL, "messages": messages, "max_completion_tokens": TOKENS, "trimode": {"mode": "ar"}}
            reply = (await client.post(CHAT, json=body)).raise_for_status()
            return int(reply.json()["usage"]["completion_tokens"])

        sides: dict[str, Once] = {"engine": direct, "server": over_http}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for once in sides.values():
            await run(once, clients, calls)  # prompts are cached from here on, on both sides
        for _ in range(rounds):
            for name, once in sides.items():
                found, rate = await run(once, clients, calls)
                seconds[name] += found
                rates[name].append(rate)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "clients": clients,
        "calls": calls,
        "rounds": rounds,
        "median_seconds": medians,
        "added_ms": 1000 * (medians["server"] - medians["engine"]),
        "tokens_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "throughput_share": statistics.median(
            server / engine for server, engine in zip(rates["server"], rates["engine"], strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", help="as Engine.load takes it; the bundled one by default")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    engine = Engine.load(args.checkpoint)
    with engine, in_thread(engine, ServerSettings(name=MODEL)) as url:
        readings = [asyncio.run(measured(engine, url, each, args.calls, args.rounds)) for each in args.clients]
        report = {
            "python": platform.python_version(),
            "checkpoint": engine.checkpoint.name,
            "kernels": engine.kernels,
            "readings": readings,
        }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
